-- job_submit_softmig.lua and cli_filter_softmig.lua as Slurm calls them, on a Slurm of tables.
local source = os.getenv("SOFTMIG_SOURCE") or "."

local NO_VAL = 4294967294
local GLOBALS = { "slurm_job_submit", "slurm_job_modify", "slurm_cli_setup_defaults",
  "slurm_cli_pre_submit", "slurm_cli_post_submit" }
local said

local function load_plugin(name)
  said = {}
  local function say(...) said[#said + 1] = string.format(...) end
  _G.slurm = { SUCCESS = 0, ERROR = -1, log_user = say, log_error = say }
  return dofile(source .. "/slurm/" .. name .. ".lua")
end

local function forget()
  _G.slurm = nil
  for _, name in ipairs(GLOBALS) do _G[name] = nil end
end

describe("job_submit", function()
  after_each(forget)

  it("loads with success and changes a job", function()
    assert.are.equal(0, load_plugin("job_submit_softmig"))
    local job = { tres_per_node = "gres:gpu:l40s.4:1" }
    assert.are.equal(0, slurm_job_submit(job, {}, 1000))
    assert.are.same({ tres_per_node = "gres:shard:l40s:1" }, job)
    assert.are.same({}, said)
  end)

  it("keeps a slice of a job on one node", function()
    load_plugin("job_submit_softmig")
    local job = { tres_per_job = "gres:gpu:l40s.4:1", min_nodes = NO_VAL, max_nodes = NO_VAL }
    assert.are.equal(0, slurm_job_submit(job, {}, 1000))
    assert.are.equal("gres:shard:l40s:1", job.tres_per_node)
    assert.are.equal("", job.tres_per_job)
    assert.are.equal(1, job.max_nodes)
  end)

  it("refuses in one line", function()
    load_plugin("job_submit_softmig")
    local job = { tres_per_node = "gres:gpu:l40s.3:1" }
    assert.are.equal(2072, slurm_job_submit(job, {}, 1000))
    assert.are.equal(1, #said)
    assert.matches("^SoftMig: ", said[1])
    assert.are.equal("gres:gpu:l40s.3:1", job.tres_per_node)
  end)

  it("knows numbers that are not set", function()
    load_plugin("job_submit_softmig")
    local job = { tres_per_task = "gres:gpu:l40s.4:1", num_tasks = NO_VAL,
      ntasks_per_node = 65534 }
    assert.are.equal(0, slurm_job_submit(job, {}, 1000))
    assert.are.equal("gres:shard:l40s:1", job.tres_per_node)
  end)

  it("refuses options that count by GPU beside a slice only", function()
    load_plugin("job_submit_softmig")
    local job = { tres_per_node = "gres:gpu:l40s.4", mem_per_tres = "gres:gpu:200" }
    assert.are.equal(2072, slurm_job_submit(job, {}, 1000))
    assert.matches("--mem-per-gpu", said[1], 1, true)
    assert.are.equal(0,
      slurm_job_submit({ tres_per_node = "gres:gpu:1", mem_per_tres = "gres:gpu:200" }, {}, 1000))
  end)

  it("looks at the job that is changed for what the change does not say", function()
    load_plugin("job_submit_softmig")
    local change = { tres_per_job = "gres:gpu:l40s.4:1" }
    assert.are.equal(2072, slurm_job_modify(change, { min_nodes = 2 }, {}, 1000))
    assert.are.equal(0, slurm_job_modify(change, { min_nodes = 1 }, {}, 1000))
    assert.are.equal("gres:shard:l40s:1", change.tres_per_node)
  end)

  it("comes after a site's own functions", function()
    local seen = {}
    _G.slurm_job_submit = function(job)
      seen[#seen + 1] = job.tres_per_node
      job.tres_per_node = job.tres_per_node .. ",gres:nic:1"
      return 0
    end
    _G.slurm_job_modify = function() return 17 end
    load_plugin("job_submit_softmig")
    local job = { tres_per_node = "gres:gpu:l40s.4:1" }
    assert.are.equal(0, slurm_job_submit(job, {}, 1000))
    assert.are.same({ "gres:gpu:l40s.4:1" }, seen)
    assert.are.equal("gres:nic:1,gres:shard:l40s:1", job.tres_per_node)
    assert.are.equal(17, slurm_job_modify({ tres_per_node = "gres:gpu:l40s.4:1" }, {}, {}, 1000))
  end)
end)

describe("cli_filter", function()
  after_each(forget)

  local function options(more)
    local all = { type = "sbatch", nodes = "1-0", ntasks = "1", ["ntasks-per-node"] = "-2",
      ["cpus-per-gpu"] = "0" }
    for key, value in pairs(more) do all[key] = value end
    return all
  end

  it("moves every family to --gres", function()
    assert.are.equal(0, load_plugin("cli_filter_softmig"))
    assert.are.equal(0, slurm_cli_setup_defaults({}, false))
    for _, key in ipairs { "gpus", "gpus-per-node", "gpus-per-task" } do
      local given = options { [key] = "l40s.4:1" }
      assert.are.equal(0, slurm_cli_pre_submit(given, 0))
      assert.are.equal("shard:l40s:1", given.gres)
      assert.are.equal("", given[key])
    end
    assert.are.equal(0, slurm_cli_post_submit(0, 1, 2))
  end)

  it("keeps a slice of a job on one node", function()
    load_plugin("cli_filter_softmig")
    local given = options { gpus = "l40s.4" }
    slurm_cli_pre_submit(given, 0)
    assert.are.equal("1", given.nodes)
    given = options { gres = "gres:gpu:l40s.4" }
    slurm_cli_pre_submit(given, 0)
    assert.are.equal("1-0", given.nodes)
  end)

  it("refuses in one line", function()
    load_plugin("cli_filter_softmig")
    assert.are.equal(-1, slurm_cli_pre_submit(options { gpus = "l40s.4", nodes = "2" }, 0))
    local given = options { gres = "gres:gpu:l40s.4", ["cpus-per-gpu"] = "2" }
    assert.are.equal(-1, slurm_cli_pre_submit(given, 0))
    assert.are.equal(2, #said)
  end)

  it("lives with a Slurm that does not know an option", function()
    load_plugin("cli_filter_softmig")
    local given = setmetatable({}, { __index = function(_, key)
      if key == "gres" then return "gres:gpu:l40s.4" end
      error("no such option: " .. key)
    end })
    assert.are.equal(0, slurm_cli_pre_submit(given, 0))
    assert.are.equal("gres:shard:l40s:1", given.gres)
  end)

  it("comes after a site's own functions", function()
    _G.slurm_cli_pre_submit = function(given)
      given.gres = "gres:gpu:l40s.2"
      return 0
    end
    _G.slurm_cli_setup_defaults = function() return 5 end
    _G.slurm_cli_post_submit = function() return 6 end
    load_plugin("cli_filter_softmig")
    local given = options {}
    assert.are.equal(0, slurm_cli_pre_submit(given, 0))
    assert.are.equal("gres:shard:l40s:2", given.gres)
    assert.are.equal(5, slurm_cli_setup_defaults({}, true))
    assert.are.equal(6, slurm_cli_post_submit(0, 1, 2))
  end)
end)
