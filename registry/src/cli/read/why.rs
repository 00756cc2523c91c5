//! `rollcall why`: what happened to an instance, in plain sentences, and what to do about it.

use rollcall_client::v1;
use rollcall_client::v1::event::Subject;
use rollcall_core::name::{InstanceId, InstanceName};

use super::super::args::WhyArgs;
use super::super::context::Context;
use super::super::values::InstanceArg;
use super::super::{Exit, Failure, Outcome, json, lookup, stdout, words};
use super::story::Story;

/// Pages of the journal that are searched for an instance that is not registered any more.
const PAGES: usize = 100;
/// Events on one page.
const PAGE: u32 = 1_000;

/// Tells the story of an instance, also for some time after its removal.
pub(crate) async fn why(context: &Context, args: WhyArgs) -> Outcome {
    let name = match &args.instance {
        InstanceArg::Full(name) => name.clone(),
        InstanceArg::Id(id) => named(context, id).await?,
    };
    let request = v1::GetInstanceRequest {
        name: Some(words::wire_instance(&name)),
        with_outputs: true,
        ..v1::GetInstanceRequest::default()
    };
    let answer = context.client.get_instance(request).await?;
    if context.is_json() {
        stdout::json(&json::of(&answer))?;
    } else {
        let story = Story { name: &name, answer: &answer };
        stdout::line(&story.tell())?;
    }
    Ok(Exit::Ok)
}

/// The instance with this id: a registered one, else the one that the journal remembers.
async fn named(context: &Context, id: &InstanceId) -> Result<InstanceName, Failure> {
    let mut found = lookup::named(&context.client, id).await?;
    if found.is_empty() {
        found = remembered(context, id).await?;
    }
    match found.len() {
        1 => Ok(found.remove(0)),
        0 => Err(lookup::unknown(id)),
        _ => Err(lookup::ambiguous(id, &found)),
    }
}

async fn remembered(context: &Context, id: &InstanceId) -> Result<Vec<InstanceName>, Failure> {
    let mut found = Vec::new();
    let mut before_revision = 0;
    for _ in 0..PAGES {
        let request =
            v1::HistoryRequest { limit: PAGE, before_revision, ..v1::HistoryRequest::default() };
        let page = context.client.history(request).await?;
        for event in page.events {
            let Some(Subject::Instance(name)) = event.subject else { continue };
            if name.instance_id != id.as_str() {
                continue;
            }
            let name = InstanceName::parse(&name.namespace, &name.service, &name.instance_id);
            let name = name.map_err(|invalid| Failure::new(invalid.to_string()))?;
            if !found.contains(&name) {
                found.push(name);
            }
        }
        before_revision = page.next_before_revision;
        if before_revision == 0 {
            break;
        }
    }
    Ok(found)
}
