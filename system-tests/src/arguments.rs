//! The command line of this program.

use std::path::PathBuf;
use std::time::Duration;

/// How it is called.
pub(crate) const USAGE: &str = "usage: rollcall-system-tests dns|health|network|all|TEXT [--rollcall PATH] [--strict] [--rounds N] [--within SECONDS]\n\
     \x20      rollcall-system-tests --list";

/// Rounds where nobody asks for more: enough to see that it works.
const ROUNDS: u32 = 3;
/// Time where nobody names one.
const WITHIN: Duration = Duration::from_secs(4 * 3_600);

/// What to do.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Order {
    /// Show the cases.
    List,
    /// Run the cases of a topic, all, or those whose names contain a text.
    Select(String),
    /// Be the process that holds many instances.
    Fleet(PathBuf),
    /// Be the process of one case.
    Play {
        /// Its name.
        name: String,
        /// Where it keeps its files.
        directory: PathBuf,
        /// Beginning of the names of what it makes outside of its directory.
        mark: String,
    },
}

/// What was asked for.
#[derive(Debug)]
pub(crate) struct Arguments {
    /// What to do.
    pub(crate) order: Order,
    /// The binary under test.
    pub(crate) rollcall: PathBuf,
    /// A skipped case counts as failed.
    pub(crate) strict: bool,
    /// How often that which is measured is repeated.
    pub(crate) rounds: u32,
    /// What is not done by then has failed.
    pub(crate) within: Duration,
}

impl Arguments {
    /// Reads the arguments after the program's name.
    pub(crate) fn read(given: impl Iterator<Item = String>) -> Result<Self, String> {
        let (mut words, mut list, mut strict) = (Vec::new(), false, false);
        let mut rollcall = PathBuf::from("target/release/rollcall");
        let (mut rounds, mut within) = (ROUNDS, WITHIN);
        let mut given = given;
        while let Some(word) = given.next() {
            match word.as_str() {
                "--list" => list = true,
                "--strict" => strict = true,
                "--rollcall" => {
                    rollcall = given.next().ok_or("--rollcall needs a path")?.into();
                }
                "--rounds" => {
                    let text = given.next().ok_or("--rounds needs a number")?;
                    rounds = text.parse().map_err(|why| format!("--rounds {text}: {why}"))?;
                    if rounds == 0 {
                        return Err("--rounds 0: there must be one".to_owned());
                    }
                }
                "--within" => {
                    let text = given.next().ok_or("--within needs seconds")?;
                    let seconds = text.parse().map_err(|why| format!("--within {text}: {why}"))?;
                    within = Duration::from_secs(seconds);
                }
                flag if flag.starts_with("--") => return Err(format!("{flag} is not known")),
                _ => words.push(word),
            }
        }
        let order = match (list, words.as_slice()) {
            (true, []) => Order::List,
            (false, [play, name, directory, mark]) if play == "play" => {
                Order::Play { name: name.clone(), directory: directory.into(), mark: mark.clone() }
            }
            (false, [fleet, plan]) if fleet == "fleet" => Order::Fleet(plan.into()),
            (false, [wanted]) => Order::Select(wanted.clone()),
            _ => return Err("name one topic, `all`, or a part of a case's name".to_owned()),
        };
        Ok(Self { order, rollcall, strict, rounds, within })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn order(text: &str) -> Result<Order, String> {
        Arguments::read(text.split_whitespace().map(str::to_owned)).map(|read| read.order)
    }

    #[test]
    fn a_topic_a_list_or_nothing_that_makes_sense() {
        assert_eq!(order("dns --strict"), Ok(Order::Select("dns".into())));
        assert_eq!(order("--list"), Ok(Order::List));
        let wrong = [
            "",
            "dns health",
            "--frob dns",
            "dns --rollcall",
            "--list dns",
            "dns --rounds x",
            "dns --rounds 0",
            "dns --within soon",
        ];
        for wrong in wrong {
            assert!(order(wrong).is_err(), "{wrong}");
        }
    }
}
