//! Queries over TCP: some connections with some queries under way on each.

use super::{
    data::Data,
    load::{Asker, Report},
};
use crate::outcome::{Doing, Outcome};
use futures_util::future::try_join_all;
use rand::{SeedableRng, rngs::SmallRng};
use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, BufReader, BufWriter},
    net::TcpStream,
    time::timeout,
};

const CONNECTIONS: usize = 8;
const UNDER_WAY: usize = 16;
const WARM_UP: Duration = Duration::from_millis(700);
/// Longest wait for an answer.
const PATIENCE: Duration = Duration::from_secs(10);

/// Loads a server that answers over UDP already.
pub(crate) async fn load(
    address: SocketAddr,
    kind: &str,
    data: Data,
    length: Duration,
) -> Outcome<Report> {
    let from = Instant::now() + WARM_UP;
    let asker = Asker::new(kind, data)?;
    let loops =
        (0..CONNECTIONS).map(|at| ask(address, asker.clone(), at as u64, from, from + length));
    let (answers, wrong) = try_join_all(loops)
        .await?
        .into_iter()
        .fold((0, 0), |(answers, wrong), (a, w)| (answers + a, wrong + w));
    #[expect(clippy::cast_precision_loss, reason = "shown with few digits")]
    let answers = answers as f64 / length.as_secs_f64();
    Ok(Report { answers, wrong, ..Report::default() })
}

/// Answers and wrong answers of one connection between two moments.
async fn ask(
    address: SocketAddr,
    asker: Asker,
    seed: u64,
    from: Instant,
    until: Instant,
) -> Outcome<(u64, u64)> {
    let stream = TcpStream::connect(address).await.doing("connect to DNS over TCP")?;
    stream.set_nodelay(true)?;
    let (reader, writer) = stream.into_split();
    let (mut reader, mut writer) = (BufReader::new(reader), BufWriter::new(writer));
    let (mut dice, mut query, mut reply) =
        (SmallRng::seed_from_u64(seed), Vec::new(), vec![0; 65_535]);
    let (mut under_way, mut wanted, mut answers, mut wrong) = (0, 0, 0, 0);
    while Instant::now() < until {
        while under_way < UNDER_WAY {
            wanted = asker.ask(1, None, &mut dice, &mut query);
            writer.write_u16(u16::try_from(query.len())?).await?;
            writer.write_all(&query).await?;
            under_way += 1;
        }
        writer.flush().await?;
        // Whatever has arrived together is taken together.
        loop {
            let length = timeout(PATIENCE, reader.read_u16()).await;
            let length = length.doing(format_args!("no answer over TCP within {PATIENCE:?}"))?;
            let length: usize = length.doing("an answer over TCP")?.into();
            reader.read_exact(&mut reply[..length]).await.doing("an answer over TCP")?;
            under_way -= 1;
            if Instant::now() >= from {
                answers += 1;
                let records = usize::from(u16::from_be_bytes([reply[6], reply[7]]));
                wrong += u64::from(reply[3] & 0x0F != 0 || records != wanted);
            }
            if under_way == 0 || reader.buffer().len() < 2 {
                break;
            }
        }
    }
    Ok((answers, wrong))
}
