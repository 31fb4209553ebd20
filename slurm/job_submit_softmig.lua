-- Slices of GPUs for slurmctld: turns gpu:l40s.4:1 into shards, and refuses in one line what is not
-- a slice. Rules and spellings: softmig_rules.lua, which must lie in the same folder.
--
-- Either link it as job_submit.lua beside slurm.conf, or end a job_submit.lua of your own with
--
--     return dofile("/etc/slurm/job_submit_softmig.lua")
--
-- Your slurm_job_submit and slurm_job_modify are then called first and see what the user typed;
-- these rules come last, so that whatever your functions ask for is translated and checked too.

local folder = debug.getinfo(1, "S").source:match("^@(.*/)") or "./"
local rules = dofile(folder .. "softmig_rules.lua")

-- ESLURM_INVALID_GRES: the client adds "Invalid generic resource (gres) specification".
local REFUSED = slurm.ESLURM_INVALID_GRES or 2072

-- Slurm's ways to say that a number is not set: NO_VAL and INFINITE in 16 and 32 bits.
local function known(number)
  if type(number) ~= "number" or number <= 0 or number == 65534 or number == 65535 or
      number >= 4294967294 then
    return nil
  end
  return number
end

local PER_GPU = {
  { key = "cpus_per_tres", label = "--cpus-per-gpu" },
  { key = "mem_per_tres", label = "--mem-per-gpu" },
  { key = "tres_bind", label = "--gpu-bind" },
  { key = "tres_freq", label = "--gpu-freq" },
}

local function given_per_gpu(job)
  local labels = {}
  for _, row in ipairs(PER_GPU) do
    local text = job[row.key]
    if type(text) == "string" and text:match("gpu") then labels[#labels + 1] = row.label end
  end
  return labels
end

-- `record` is the job as it is, where a request changes a job.
local function request_of(job, record)
  return {
    families = {
      { key = "tres_per_node", per = "node", text = job.tres_per_node },
      { key = "tres_per_job", per = "job", text = job.tres_per_job },
      { key = "tres_per_task", per = "task", text = job.tres_per_task },
      { key = "tres_per_socket", per = "socket", text = job.tres_per_socket },
    },
    prefixed = true,
    per_gpu = given_per_gpu(job),
    nodes = known(job.min_nodes) or (record and known(record.min_nodes)),
    tasks = known(job.num_tasks),
    tasks_per_node = known(job.ntasks_per_node),
  }
end

local function apply(job, record)
  local request = request_of(job, record)
  local changes, fault = rules.apply(request)
  if not changes then
    slurm.log_user("SoftMig: %s", fault)
    return REFUSED
  end
  for key, text in pairs(changes) do job[key] = text end
  -- A slice that was asked for once a job must not become one on each of several nodes.
  if changes.tres_per_job == "" and not known(job.max_nodes) then job.max_nodes = 1 end
  return slurm.SUCCESS
end

local site_submit, site_modify = slurm_job_submit, slurm_job_modify

function slurm_job_submit(job, partitions, uid)
  if site_submit then
    local status = site_submit(job, partitions, uid)
    if status ~= slurm.SUCCESS then return status end
  end
  return apply(job)
end

function slurm_job_modify(job, record, partitions, uid)
  if site_modify then
    local status = site_modify(job, record, partitions, uid)
    if status ~= slurm.SUCCESS then return status end
  end
  return apply(job, record)
end

return slurm.SUCCESS
