//! The GitLab simulator.
