//! The gRPC server: limits, keep-alive, health, reflection, and a shutdown that ends streams properly.

use super::{Api, calls::Calls, discovery::DiscoveryServer};
use crate::net::{Listener, incoming};
use prost::Message;
use prost_types::FileDescriptorSet;
use rollcall_proto::{
    FILE_DESCRIPTOR_SET,
    v1::{
        admin_service_server::AdminServiceServer, journal_service_server::JournalServiceServer,
        registration_service_server::RegistrationServiceServer,
    },
};
use std::time::Duration;
use tonic::{service::Routes, transport::Server};
use tonic_health::{ServingStatus, server::HealthReporter};

/// How often the health of the services is looked at.
const HEALTH_EVERY: Duration = Duration::from_millis(250);
/// Resets that a client may have pending before its connection is closed (CVE-2023-44487).
const PENDING_RESETS: usize = 200;
/// Streams of one connection that this side may have reset for faults of the client.
const FAULTY_STREAMS: usize = 1024;
/// Health service names.
const DISCOVERY: &str = "rollcall.v1.DiscoveryService";
const REGISTRATION: &str = "rollcall.v1.RegistrationService";
const JOURNAL: &str = "rollcall.v1.JournalService";
const ADMIN: &str = "rollcall.v1.AdminService";
/// The process as a whole.
const PROCESS: &str = "";

impl Api {
    /// Serves until this node begins to drain, then until the streams have ended.
    ///
    /// # Errors
    /// When the listener fails for good.
    pub async fn serve(self, listener: Box<dyn Listener>) -> Result<(), tonic::transport::Error> {
        let settings = self.settings().clone();
        let (reporter, health) = tonic_health::server::health_reporter();
        let limit = settings.message_bytes;
        let routes = Routes::new(health)
            .add_service(
                RegistrationServiceServer::new(self.clone()).max_decoding_message_size(limit),
            )
            .add_service(DiscoveryServer(self.clone()))
            .add_service(JournalServiceServer::new(self.clone()).max_decoding_message_size(limit))
            .add_service(AdminServiceServer::new(self.clone()).max_decoding_message_size(limit));
        let routes = with_reflection(routes);
        let draining = self.0.draining.clone();
        let api = self.clone();
        let calls = tower::layer::layer_fn(move |inner| Calls::new(inner, api.clone()));
        let server = Server::builder()
            .max_concurrent_streams(settings.streams_per_connection)
            .http2_max_header_list_size(settings.header_list_bytes)
            .http2_keepalive_interval(Some(settings.keepalive))
            .http2_keepalive_timeout(Some(settings.keepalive_timeout))
            .http2_max_pending_accept_reset_streams(Some(PENDING_RESETS))
            .http2_max_local_error_reset_streams(Some(FAULTY_STREAMS))
            .layer(calls)
            .add_routes(routes)
            .serve_with_incoming_shutdown(incoming(listener), draining.cancelled());
        tokio::select! {
            biased;
            served = server => served,
            () = report(self, reporter) => Ok(()),
        }
    }
}

/// What the public files describe, without what the nodes say to each other.
fn with_reflection(routes: Routes) -> Routes {
    let all = FileDescriptorSet::decode(FILE_DESCRIPTOR_SET);
    let mut public = all.expect("the build wrote these descriptors");
    public.file.retain(|file| !file.package().starts_with("rollcall.internal"));
    let builder = || {
        tonic_reflection::server::Builder::configure()
            .register_file_descriptor_set(public.clone())
            .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
    };
    let v1 = builder().build_v1().expect("the descriptors are complete");
    // Older grpcurl knows the alpha alone.
    let v1alpha = builder().build_v1alpha().expect("the descriptors are complete");
    routes.add_service(v1).add_service(v1alpha)
}

/// Keeps grpc.health.v1 true: "" is the process; what reads serves once a state was seen; registration needs a leader.
/// A node that shuts down serves nothing, and those who watch its health are let go.
async fn report(api: Api, mut reporter: HealthReporter) {
    let mut every = tokio::time::interval(HEALTH_EVERY);
    every.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let status = |serving| match serving {
        true => ServingStatus::Serving,
        false => ServingStatus::NotServing,
    };
    loop {
        tokio::select! {
            biased;
            () = api.draining() => break,
            _ = every.tick() => {}
        }
        let freshness = api.freshness();
        let reads = freshness.staleness.is_some();
        for (service, serving) in
            [(DISCOVERY, reads), (JOURNAL, reads), (REGISTRATION, freshness.leader_known)]
        {
            reporter.set_service_status(service, status(serving)).await;
        }
        reporter.set_service_status(ADMIN, ServingStatus::Serving).await;
    }
    for service in [PROCESS, DISCOVERY, JOURNAL, REGISTRATION, ADMIN] {
        reporter.set_service_status(service, ServingStatus::NotServing).await;
        reporter.clear_service_status(service).await;
    }
    std::future::pending().await
}
