//! Resume tokens: opaque bytes of (cluster id, epoch, revision), good on every node of the cluster.

use rollcall_core::name::Invalid;

const VERSION: u8 = 1;
const LENGTH: usize = 1 + 16 + 4 + 8;

/// A place in the history of one cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Token {
    /// Of which cluster.
    pub cluster_id: u128,
    /// Of which history: restore and forced recovery begin a new one.
    pub epoch: u32,
    /// Everything up to here was sent.
    pub revision: u64,
}

impl Token {
    /// The opaque bytes.
    pub fn to_bytes(self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(LENGTH);
        bytes.push(VERSION);
        bytes.extend(self.cluster_id.to_be_bytes());
        bytes.extend(self.epoch.to_be_bytes());
        bytes.extend(self.revision.to_be_bytes());
        bytes
    }

    /// Reads a token. Errors name the field `resume_token`.
    pub fn parse(bytes: &[u8]) -> Result<Self, Invalid> {
        let wrong = |problem: String| Invalid::new("resume_token", problem);
        if bytes.len() != LENGTH || bytes[0] != VERSION {
            let problem = format!("{} bytes that no node of this version made", bytes.len());
            return Err(wrong(problem));
        }
        let (cluster, rest) = bytes[1..].split_at(16);
        let (epoch, revision) = rest.split_at(4);
        let number = |bytes: &[u8]| bytes.iter().fold(0_u128, |n, b| n << 8 | u128::from(*b));
        Ok(Self {
            cluster_id: number(cluster),
            epoch: u32::try_from(number(epoch)).map_err(|_| wrong("epoch".into()))?,
            revision: u64::try_from(number(revision)).map_err(|_| wrong("revision".into()))?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_comes_back_as_it_was_and_others_are_refused() {
        let token = Token { cluster_id: 7 << 100, epoch: 3, revision: u64::MAX };
        let bytes = token.to_bytes();
        assert_eq!(Token::parse(&bytes).unwrap(), token);
        assert_eq!(Token::parse(&bytes[1..]).expect_err("short").field, "resume_token");
        assert!(Token::parse(&[]).is_err());
    }
}
