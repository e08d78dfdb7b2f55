//! Apple App Attest.
