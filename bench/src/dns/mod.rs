//! DNS over UDP and TCP: one core that answers, one core that asks.
//!
//! * [`data`] what all servers answer from, in the form of each
//! * [`load`] queries over UDP in batches, closed loop or paced; [`tcp`] the same over TCP
//! * [`serve`] hickory's own server, and a socket that sends back what it gets
//! * [`servers`] how each is started
//! * [`visible`] how soon a registration is there

pub(crate) mod data;
pub(crate) mod load;
pub(crate) mod serve;
pub(crate) mod servers;
pub(crate) mod tcp;
pub(crate) mod visible;
