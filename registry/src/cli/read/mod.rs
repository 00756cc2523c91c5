//! Questions to the registry: `resolve`, `ls`, `watch`, `why`, `check`, `events`.

mod check;
mod events;
mod ls;
mod resolve;
mod story;
mod watch;
mod why;

pub(super) use check::check;
pub(super) use events::events;
pub(super) use ls::ls;
pub(super) use resolve::resolve;
pub(super) use watch::watch;
pub(super) use why::why;

use rollcall_client::{Client, v1};
use rollcall_core::name::ServiceName;
use rollcall_core::query::HealthFilter;

use super::args::SelectorArgs;
use super::failure::Failure;
use super::{stdout, words};

/// Whether the registry knows a service: it has instances or a policy.
async fn is_known(client: &Client, service: &ServiceName) -> Result<bool, Failure> {
    // The service itself is the first of all that begin with its name.
    let request = v1::ListServicesRequest {
        namespace: service.namespace.as_str().to_owned(),
        name_prefix: service.service.as_str().to_owned(),
        page_size: 1,
        ..v1::ListServicesRequest::default()
    };
    let services = client.list_services(request).await?.services;
    let first = services.first().and_then(|summary| summary.name.as_ref());
    Ok(first.is_some_and(|name| name.service == service.service.as_str()))
}

/// The filter that the options of a command stand for.
fn filter(selector: &SelectorArgs, endpoint: Option<&str>) -> v1::ResolveFilter {
    let health = match HealthFilter::from(selector.health) {
        HealthFilter::Routable => v1::HealthFilter::Routable,
        HealthFilter::Healthy => v1::HealthFilter::HealthyOnly,
        HealthFilter::Any => v1::HealthFilter::Any,
    };
    let pair = |pair: &super::MetadataPair| (pair.key.to_string(), pair.value.to_string());
    v1::ResolveFilter {
        health: health.into(),
        tags: selector.tags.iter().map(ToString::to_string).collect(),
        metadata: selector.metadata.iter().map(pair).collect(),
        endpoint_name: endpoint.unwrap_or_default().to_owned(),
    }
}

/// Prints instances, one a row.
fn print_instances(instances: &[v1::Instance]) -> Result<(), Failure> {
    let header = ["ID", "ADDRESS", "STATUS", "WEIGHT", "ZONE", "TAGS", "METADATA"];
    stdout::table(
        header,
        instances.iter().map(|instance| {
            let spec = instance.spec.clone().unwrap_or_default();
            let pairs: Vec<_> =
                spec.metadata.iter().map(|(key, value)| format!("{key}={value}")).collect();
            [
                instance.instance_id.clone(),
                words::endpoints(Some(&spec)),
                words::status(instance.health_status, instance.admin_state),
                spec.weight.unwrap_or(100).to_string(),
                spec.locality.unwrap_or_default().zone,
                spec.tags.join(","),
                pairs.join(","),
            ]
        }),
    )
}
