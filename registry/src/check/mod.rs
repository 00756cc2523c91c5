pub mod egress;
pub mod probe;
