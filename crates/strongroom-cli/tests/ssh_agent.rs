//! ssh-agent, ssh-add and ssh-keygen, protected.
