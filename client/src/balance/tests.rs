//! Tests of the balancer as a whole, on lists of their own.
