//! The CortexDB simulator.
