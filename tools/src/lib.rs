//! Programs that look at Lacuna from outside.
