"""Front ends that build the IR: traced Python and YAML."""
