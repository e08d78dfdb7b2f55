//! JWT and JWS cases of the command line.
