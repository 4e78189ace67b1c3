//! Checks OpenPGP clear-signed files.
