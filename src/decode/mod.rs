//! The compiled projections: one decoder per format, from record bytes to the fields a mapping asked for.
