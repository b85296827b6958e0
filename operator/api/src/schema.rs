//! Pieces of schema.
