//! Workers on fakes: no kernel, no hypervisor, no threads but where a test is about them.
mod fakes;
mod rig;
mod rx;
mod tx;
