//! What hypervisor, guests and preload library agree upon.
