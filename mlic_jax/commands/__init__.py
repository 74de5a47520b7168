"""What the subcommands of `mlic` do: training, measuring, and pictures. mlic_jax.cli has their arguments."""
