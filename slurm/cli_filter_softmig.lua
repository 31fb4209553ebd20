-- Slices of GPUs for sbatch, salloc and srun: the client's half of job_submit_softmig.lua. It is
-- needed because job_submit rewrites jobs and never sees steps: without it, srun would go on asking
-- for gpu:l40s.4:1 in a job that has shards.
--
-- Either link it as cli_filter.lua beside slurm.conf on login and compute nodes, or end a
-- cli_filter.lua of your own with
--
--     return dofile("/etc/slurm/cli_filter_softmig.lua")
--
-- Your slurm_cli_pre_submit is then called first and sees what the user typed.

local folder = debug.getinfo(1, "S").source:match("^@(.*/)") or "./"
local rules = dofile(folder .. "softmig_rules.lua")

local FAMILIES = {
  { key = "gres", per = "node" },
  { key = "gpus-per-node", per = "node", bare = true },
  { key = "gpus", per = "job", bare = true },
  { key = "gpus-per-task", per = "task", bare = true },
  { key = "gpus-per-socket", per = "socket", bare = true },
  { key = "tres-per-task", per = "task" }, -- from Slurm 23.11 on
}

local PER_GPU = { "cpus-per-gpu", "mem-per-gpu", "gpu-bind", "gpu-freq" }

-- An option that this Slurm does not know is one that was not given.
local function option(options, key)
  local ok, value = pcall(function() return options[key] end)
  if ok and type(value) == "string" and value ~= "" then return value end
  return nil
end

local function request_of(options)
  local families = {}
  for i, row in ipairs(FAMILIES) do
    families[i] = { key = row.key, per = row.per, bare = row.bare, text = option(options, row.key) }
  end
  local per_gpu = {}
  for _, key in ipairs(PER_GPU) do
    if (option(options, key) or "0") ~= "0" then per_gpu[#per_gpu + 1] = "--" .. key end
  end
  local nodes = option(options, "nodes")
  return {
    families = families,
    per_gpu = per_gpu,
    nodes = nodes and tonumber(nodes:match("^%d+")),
    tasks = tonumber(option(options, "ntasks")),
    tasks_per_node = tonumber(option(options, "ntasks-per-node")),
    step = option(options, "type") == "srun" and os.getenv("SLURM_JOB_ID") ~= nil,
  }
end

local site_defaults, site_pre, site_post =
    slurm_cli_setup_defaults, slurm_cli_pre_submit, slurm_cli_post_submit

function slurm_cli_setup_defaults(options, early)
  if site_defaults then return site_defaults(options, early) end
  return slurm.SUCCESS
end

function slurm_cli_pre_submit(options, offset)
  if site_pre then
    local status = site_pre(options, offset)
    if status ~= slurm.SUCCESS then return status end
  end
  local request = request_of(options)
  local changes, fault = rules.apply(request)
  if not changes then
    slurm.log_error("SoftMig: %s", fault)
    return slurm.ERROR
  end
  for key, text in pairs(changes) do options[key] = text end
  -- A slice that was asked for once a job must not become one on each of several nodes.
  if changes.gpus == "" and not request.step then options.nodes = "1" end
  return slurm.SUCCESS
end

function slurm_cli_post_submit(offset, job, step)
  if site_post then return site_post(offset, job, step) end
  return slurm.SUCCESS
end

return slurm.SUCCESS
