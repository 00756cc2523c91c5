//! A process that starts while every node of the registry is gone: it has its copy of the list, and calls.

use super::{Outcome, fleet, report::tell};
use clap::Args;
use rollcall_client::{Balance, Builder, Copies, Retry};
use std::{path::PathBuf, time::Duration};
use tokio::time::Instant;

#[derive(Args)]
pub(crate) struct Fresh {
    #[arg(long, value_delimiter = ',')]
    registry: Vec<String>,
    /// Where the copy is.
    #[arg(long)]
    copies: PathBuf,
    #[arg(long, default_value_t = 1_000)]
    calls: u32,
}

impl Fresh {
    /// Prints how many calls it made, how many of them failed, and the milliseconds to the first answer.
    pub(crate) async fn call(self) -> Outcome {
        let begin = Instant::now();
        let client = Builder::new(self.registry).copies(Copies::directory(self.copies)).build()?;
        let balance = Balance::named(fleet::service()?).retry(Retry::off());
        let balancer = client.balance(balance.timeout(Duration::from_secs(2)))?;
        let caller = super::way::Caller::Ours(balancer.channel());
        let (mut failed, mut first) = (0, None);
        for _ in 0..self.calls {
            match caller.call().await {
                Ok(()) => _ = first.get_or_insert_with(|| begin.elapsed().as_millis()),
                Err(_) => failed += 1,
            }
        }
        tell(&format!("{} {failed} {}", self.calls, first.unwrap_or_default()));
        Ok(())
    }
}
