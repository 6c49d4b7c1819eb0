//! When a watching run syncs, and when it interrupts a sync.
