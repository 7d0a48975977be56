//! HTTP: metrics, probes, status, wait.
