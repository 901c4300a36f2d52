//! System calls behind safe signatures. The only place in the repository with `unsafe`.
#![allow(unsafe_code)]
