//! Google Play Integrity.
