//! From the words of a person to full names: instances by a bare id, members by their name.

use rollcall_client::{Client, Error, v1};
use rollcall_core::name::{InstanceId, InstanceName};
use tonic::Code;

use super::values::{InstanceArg, NodeArg};
use super::{Exit, failure::Failure, words};

/// Services asked for in one call.
const CHUNK: usize = 100;

/// The full name of an instance. A bare id is looked for in all services of the namespace `default`.
pub(super) async fn instance(
    client: &Client,
    instance: &InstanceArg,
) -> Result<InstanceName, Failure> {
    let id = match instance {
        InstanceArg::Full(name) => return Ok(name.clone()),
        InstanceArg::Id(id) => id,
    };
    let mut found = named(client, id).await?;
    match found.len() {
        1 => Ok(found.remove(0)),
        0 => Err(unknown(id)),
        _ => Err(ambiguous(id, &found)),
    }
}

/// No instance has this id.
pub(super) fn unknown(id: &InstanceId) -> Failure {
    let text = format!(
        "no service of the namespace default has an instance {id}; `rollcall ls SERVICE` lists \
         instances, and NAMESPACE/SERVICE/ID names one in any namespace"
    );
    Failure::with(Exit::Unknown, text)
}

/// Several instances have this id.
pub(super) fn ambiguous(id: &InstanceId, found: &[InstanceName]) -> Failure {
    let candidates: Vec<_> = found.iter().map(|name| format!("  {name}")).collect();
    let text = format!("several instances are called {id}; name one of\n{}", candidates.join("\n"));
    Failure::new(text)
}

/// All registered instances of the namespace `default` with this id, by service.
pub(super) async fn named(client: &Client, id: &InstanceId) -> Result<Vec<InstanceName>, Failure> {
    let request = v1::ListServicesRequest { page_size: 1_000, ..Default::default() };
    let services = client.list_all_services(request).await?;
    let names: Vec<_> = services.into_iter().filter_map(|service| service.name).collect();
    let mut found = Vec::new();
    // Chunks that are too large for one answer are halved.
    let mut chunks: Vec<&[v1::ServiceName]> = names.chunks(CHUNK).rev().collect();
    while let Some(chunk) = chunks.pop() {
        let held = match chunk {
            [one] if holds(client, one, id).await? => vec![one.clone()],
            [_] => Vec::new(),
            many => match holders(client, many, id).await {
                Ok(held) => held,
                Err(error) if error.code() == Some(Code::ResourceExhausted) => {
                    let (left, right) = many.split_at(many.len() / 2);
                    chunks.extend([right, left]);
                    continue;
                }
                Err(error) => return Err(error.into()),
            },
        };
        for service in held {
            let name = InstanceName::parse(&service.namespace, &service.service, id.as_str());
            found.push(name.map_err(|invalid| Failure::new(invalid.to_string()))?);
        }
    }
    Ok(found)
}

async fn holds(client: &Client, service: &v1::ServiceName, id: &InstanceId) -> Result<bool, Error> {
    let name = v1::InstanceName {
        namespace: service.namespace.clone(),
        service: service.service.clone(),
        instance_id: id.as_str().to_owned(),
    };
    let request = v1::GetInstanceRequest { name: Some(name), ..Default::default() };
    match client.get_instance(request).await {
        Ok(answer) => Ok(answer.instance.is_some()),
        Err(error) if error.code() == Some(Code::NotFound) => Ok(false),
        Err(error) => Err(error),
    }
}

async fn holders(
    client: &Client,
    services: &[v1::ServiceName],
    id: &InstanceId,
) -> Result<Vec<v1::ServiceName>, Error> {
    let filter =
        v1::ResolveFilter { health: v1::HealthFilter::Any.into(), ..v1::ResolveFilter::default() };
    let query = |service: &v1::ServiceName| v1::batch_resolve_request::Query {
        service: Some(service.clone()),
        filter: Some(filter.clone()),
        ..Default::default()
    };
    let queries = services.iter().map(query).collect();
    let answer = client
        .batch_resolve(v1::BatchResolveRequest { queries, ..v1::BatchResolveRequest::default() })
        .await?;
    let has = |response: &v1::ResolveResponse| {
        response.instances.iter().any(|instance| instance.instance_id == id.as_str())
    };
    let held = services.iter().zip(&answer.responses).filter(|(_, response)| has(response));
    Ok(held.map(|(service, _)| service.clone()).collect())
}

/// The id of a member.
pub(super) async fn node(client: &Client, node: &NodeArg) -> Result<u64, Failure> {
    let name = match node {
        NodeArg::Id(id) => return Ok(*id),
        NodeArg::Name(name) => name,
    };
    let members = client.get_cluster_status().await?.members;
    let named: Vec<_> = members.iter().filter(|member| member.name == *name).collect();
    match named[..] {
        [member] => Ok(member.node_id),
        [] => {
            let mut known: Vec<_> = members.iter().map(|member| member.name.as_str()).collect();
            known.sort_unstable();
            let known = known.join(", ");
            let text = format!("no member is called {name}; the members are {known}");
            Err(Failure::with(Exit::Unknown, text))
        }
        _ => {
            let ids: Vec<_> = named.iter().map(|member| words::id(member.node_id)).collect();
            let text = format!("several members are called {name}; give an id: {}", ids.join(", "));
            Err(Failure::new(text))
        }
    }
}
