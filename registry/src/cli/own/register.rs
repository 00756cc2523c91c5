//! `rollcall register`: one instance from the command line, kept by this process or by nobody.

use rollcall_client::{Guard, State};
use serde_json::json;

use super::super::args::RegisterArgs;
use super::super::context::Context;
use super::super::signals::Stop;
use super::super::stdout::complain;
use super::super::{Exit, Failure, Outcome, stdout, words};
use super::{news, registration, service_name};

/// Registers. Without `--persistent` it beats until it is interrupted, and deregisters then.
pub(crate) async fn register(context: &Context, args: RegisterArgs) -> Outcome {
    let mut stop = Stop::catch()?;
    let service = service_name(&args.service, &args.spec);
    let mut registration = registration(&service, &args.spec).id(args.id.as_str());
    for endpoint in &args.endpoints {
        registration = registration.endpoint(endpoint.name.as_str(), endpoint.address);
    }
    if let Some(ttl) = args.ttl {
        registration = registration.ttl(ttl.duration());
    }
    if args.persistent {
        registration = registration.persistent();
    }
    let guard = tokio::select! {
        biased;
        number = stop.wait() => return Ok(Exit::Signal(number)),
        guard = context.client.register(registration) => guard?,
    };
    print(context, &guard)?;
    if args.persistent {
        complain(&format!("{} is registered, and stays until it is deregistered", guard.name()));
        // Its guard keeps no lease.
        return Ok(Exit::Ok);
    }
    complain(&format!("{} is registered; interrupt to deregister it", guard.name()));
    let fenced = tokio::select! {
        biased;
        _ = stop.wait() => None,
        detail = fenced(&guard) => Some(detail),
    };
    if let Some(detail) = fenced {
        return Err(Failure::new(detail));
    }
    let name = guard.name().clone();
    match guard.deregister().await {
        Ok(()) => complain(&format!("{name} is deregistered")),
        Err(error) => {
            let text = format!("{name} could not be deregistered, its lease runs out: {error}");
            return Err(Failure::new(text));
        }
    }
    Ok(Exit::Ok)
}

fn print(context: &Context, guard: &Guard) -> Result<(), Failure> {
    if !context.is_json() {
        return Ok(());
    }
    let name = guard.name();
    stdout::json_line(&json!({
        "namespace": name.service.namespace.as_str(),
        "service": name.service.service.as_str(),
        "instance_id": name.id.as_str(),
        "generation": guard.generation().map(words::id),
    }))
}

/// Tells each change of the registration; ends when it is somebody else's for good.
async fn fenced(guard: &Guard) -> String {
    let name = guard.name().to_string();
    let mut states = guard.states();
    // The first state was told already.
    states.mark_unchanged();
    loop {
        if states.changed().await.is_err() {
            return format!("{name} is not kept any more");
        }
        let state = states.borrow_and_update().clone();
        let text = news(&name, &state);
        if matches!(state, State::Fenced { .. } | State::Stopped) {
            return text.unwrap_or_else(|| format!("{name} is not kept any more"));
        }
        if let Some(text) = text {
            complain(&text);
        }
    }
}
