-- luacheck slurm tests/lua
std = "min" -- what Lua 5.1 to 5.4 have in common
max_line_length = 100
files["slurm"] = {
  globals = { "slurm_job_submit", "slurm_job_modify", "slurm_cli_setup_defaults", "slurm_cli_pre_submit",
    "slurm_cli_post_submit" },
  read_globals = { "slurm" },
}
files["tests/lua"] = {
  std = "min+busted",
  read_globals = { "slurm_job_submit", "slurm_job_modify", "slurm_cli_setup_defaults",
    "slurm_cli_pre_submit", "slurm_cli_post_submit" },
}
