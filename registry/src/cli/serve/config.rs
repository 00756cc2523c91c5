//! `config check` and `config show`.

use super::super::args::{ConfigCommand, Output};
use super::super::stdout::complain;
use super::super::{Exit, Failure, Outcome, stdout};
use super::load_config;

/// Checks a configuration, or shows the one that counts.
pub(crate) fn config(command: ConfigCommand, output: Output) -> Outcome {
    match command {
        ConfigCommand::Check(args) => {
            load_config(&args)?;
            complain("the configuration can be used");
        }
        ConfigCommand::Show(args) => {
            let loaded = load_config(&args)?;
            match output {
                Output::Table => stdout::line(loaded.render().trim_end())?,
                Output::Json => {
                    let value = serde_json::to_value(&loaded.config);
                    stdout::json(&value.map_err(|error| Failure::new(error.to_string()))?)?;
                }
            }
        }
    }
    Ok(Exit::Ok)
}
