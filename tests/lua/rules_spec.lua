-- The rules by themselves: what a request becomes, and what it is refused with.
local source = os.getenv("SOFTMIG_SOURCE") or "."
local rules = dofile(source .. "/slurm/softmig_rules.lua")

local FOUR = { general = 4, types = {} }

-- A request with texts by field, as job_submit has them.
local function request(fields, more)
  local made = more or {}
  made.families = {
    { key = "node", per = "node", text = fields.node },
    { key = "per_node", per = "node", text = fields.per_node, bare = true },
    { key = "job", per = "job", text = fields.job, bare = true },
    { key = "task", per = "task", text = fields.task, bare = true },
    { key = "socket", per = "socket", text = fields.socket, bare = true },
  }
  return made
end

local function translate(fields, more, shards)
  return rules.translate(request(fields, more), shards or FOUR)
end

local function refusal(fields, more, shards)
  local changes, fault = translate(fields, more, shards)
  assert.is_nil(changes)
  assert.is_nil(fault:match("[%c\127-\255]"), "one line of printable text")
  return fault
end

local function refuses(expected, ...) assert.matches(expected, refusal(...), 1, true) end

local function becomes(expected, text, shards)
  assert.are.same({ node = expected }, translate({ node = text }, nil, shards))
end

local function passes(text) assert.are.same({}, translate({ node = text })) end

describe("a slice", function()
  it("becomes shards of its type", function()
    becomes("shard:l40s:1", "gpu:l40s.4:1")
    becomes("shard:l40s:2", "gpu:l40s.2:1")
  end)

  it("may leave out the count or write it in other ways", function()
    becomes("shard:l40s:1", "gpu:l40s.4")
    becomes("shard:l40s:1", "gpu:l40s.4=1")
    becomes("shard:l40s:1", "gpu:l40s.4:01")
    becomes("shard:l40s:1", "gpu:l40s.04:1")
  end)

  it("may leave out gpu:", function()
    becomes("shard:l40s:1", "l40s.4:1")
    becomes("shard:l40s:1", "l40s.4")
    becomes("shard:l40s:1", "l40s.4=1")
  end)

  it("keeps the prefix that this Slurm writes", function()
    becomes("gres:shard:l40s:1", "gres:gpu:l40s.4:1")
    becomes("gres/shard:l40s:1", "gres/gpu:l40s.4:1")
    becomes("gres/shard:l40s:1", "gres/gpu:l40s.4=1")
    becomes("gres/shard:l40s:1", "gres/gres/gpu:l40s.4=1")
  end)

  it("may be written in upper case", function()
    becomes("shard:l40s:1", "GPU:L40S.4:1")
    becomes("gres:shard:l40s:1", "GRES:gpu:L40s.4")
  end)

  it("may have hyphens, underscores and dots in its type", function()
    becomes("shard:a100-sxm4:2", "gpu:a100-sxm4.2:1")
    becomes("shard:rtx_6000:1", "gpu:rtx_6000.4:1")
    becomes("shard:tesla.v100:2", "gpu:tesla.v100.2:1")
    becomes("shard:nvidia_a100-sxm4-80gb:1", "NVIDIA_A100-SXM4-80GB.4")
  end)

  it("stands beside what is no GPU", function()
    becomes("gres:nic:mlx5:2,gres:shard:l40s:1", "gres:gpu:l40s.4:1,gres:nic:mlx5:2")
    becomes("nic,shard:l40s:1", "nic, gpu:l40s.4:1")
  end)
end)

describe("the shards of a type", function()
  local shards = { general = 4, types = {
    h100 = { name = "H100", count = 8 },
    v100 = { name = "v100", count = 1 },
    ["rtx.6000"] = { name = "rtx.6000", count = 2 },
  } }

  it("decide how many a slice has", function()
    becomes("shard:H100:1", "gpu:h100.8", shards)
    becomes("shard:H100:4", "gpu:H100.2", shards)
    becomes("shard:l40s:1", "gpu:l40s.4", shards)
  end)

  it("tell a type that ends in a number from a slice", function()
    assert.are.same({}, translate({ node = "gpu:rtx.6000:1" }, nil, shards))
    becomes("shard:rtx.6000:1", "gpu:RTX.6000.2:1", shards)
  end)

  it("can be one: no slices", function()
    refuses('"gpu:v100.2" cannot be had, v100 is not cut into slices: ask for gpu:v100:1',
      { node = "gpu:v100.2" }, nil, shards)
  end)
end)

describe("the other option families", function()
  it("hand their slice to the node", function()
    assert.are.same({ node = "gres:shard:l40s:1", job = "" },
      translate({ job = "gres:gpu:l40s.4:1" }))
    assert.are.same({ node = "shard:l40s:1", per_node = "" }, translate({ per_node = "l40s.4:1" }))
    assert.are.same({ node = "shard:l40s:2", task = "" },
      translate({ task = "l40s.2" }, { tasks = 1 }))
  end)

  it("keep what else is there", function()
    assert.are.same({ node = "gres:nic:1,gres:shard:l40s:1", job = "" },
      translate({ node = "gres:nic:1", job = "l40s.4" }))
  end)

  it("may say the same twice", function()
    assert.are.same({ node = "shard:l40s:1", job = "" },
      translate({ node = "gpu:l40s.4:1", job = "L40S.4" }))
  end)

  it("refuse per socket", function()
    refuses("per socket, use --gres", { socket = "l40s.4:1" })
    refuses("per socket, use --gres", { socket = "gres:shard:l40s:1" })
  end)

  it("refuse one slice for several nodes", function()
    refuses("cannot be spread over 2 nodes", { job = "l40s.4" }, { nodes = 2 })
    assert.is_table(translate({ node = "gpu:l40s.4" }, { nodes = 2 }))
    assert.is_table(translate({ job = "l40s.4" }, { nodes = 2, step = true }))
  end)

  it("refuse a slice for each of several tasks, but not for one task a node", function()
    refuses("by each of 2 tasks", { task = "l40s.4" }, { tasks = 2 })
    assert.is_table(translate({ task = "l40s.4" }, { tasks = 2, tasks_per_node = 1 }))
  end)

  it("leave a step that wants nothing without its slice", function()
    assert.are.same({ job = "" }, translate({ node = "none", job = "l40s.4" }, { step = true }))
  end)

  it("refuse options that count by GPU", function()
    assert.matches("^%-%-cpus%-per%-gpu counts whole GPUs",
      refusal({ node = "gpu:l40s.4" }, { per_gpu = { "--cpus-per-gpu" } }))
    assert.are.same({}, translate({ node = "gpu:l40s:1" }, { per_gpu = { "--cpus-per-gpu" } }))
  end)
end)

describe("what is no slice", function()
  it("is refused with the slices that there are", function()
    assert.are.equal('"gpu:l40s.3:1" is not a slice, l40s is cut into 4: ask for l40s.2 or l40s.4',
      refusal({ node = "gres:gpu:l40s.3:1" }))
    for _, text in ipairs { "gpu:l40s.0:1", "gpu:l40s.8:1", "gpu:l40s.5", "gpu:l40s.9999999" } do
      refuses("is not a slice", { node = text })
    end
  end)

  it("is a whole GPU", function()
    assert.are.equal('"gpu:l40s.1:1" is no slice but a whole GPU: ask for gpu:l40s:1',
      refusal({ node = "gpu:l40s.1:1" }))
  end)

  it("is more or less than one", function()
    for _, count in ipairs { ":2", ":0", ":1k", ":", "=4", ":-1", ":1.0", ":1:1", ":x" } do
      refuses("is not one slice", { node = "gpu:l40s.4" .. count })
    end
  end)

  it("is two slices", function()
    for _, text in ipairs { "gpu:l40s.4:1,gpu:l40s.4:1", "gpu:l40s.4,gpu:a100.2" } do
      refuses("is a second slice", { node = text })
    end
    refuses("is a second slice", { node = "gpu:l40s.4", job = "l40s.2" })
  end)

  it("is mixed", function()
    assert.are.equal('"gpu:l40s.4" and "gpu:a100:1" cannot be had in one job',
      refusal({ node = "gres:gpu:a100:1,gres:gpu:l40s.4" }))
    refuses("cannot be had in one job", { node = "gpu:l40s.4,shard:1" })
    refuses("cannot be had in one job", { node = "gpu:l40s.4", job = "2" })
  end)

  it("lacks the prefix that Slurm needs", function()
    refuses("would be taken for no GPU at all: use gres=gpu:l40s.4", { node = "gpu:l40s.4:1" },
      { prefixed = true })
  end)

  it("lacks its type", function()
    refuses("lacks the type", { node = "gpu.4:1" })
  end)

  it("is named in one line, whatever it holds", function()
    local fault = refusal({ node = "gpu:l40s.4:\27[31m\n" .. ("x"):rep(500) })
    assert.is_true(#fault < 300)
  end)
end)

describe("shards by their own name", function()
  it("pass as far as a GPU has so many", function()
    passes("shard:l40s:3")
    passes("gres:shard:4")
    passes("shard")
    passes("shard:l40s")
    passes("shard:l40s:1,shard:a100:1")
  end)

  it("are refused where they would wait for ever", function()
    assert.are.equal('"shard:l40s:5" can never start: a l40s has 4 shards, ' ..
      "and a job's shards are on one GPU", refusal({ node = "gres:shard:l40s:5" }))
    refuses("can never start", { node = "shard:5" })
    assert.are.same({}, translate({ node = "shard:8" }, nil,
      { general = 4, types = { h100 = { name = "h100", count = 8 } } }))
  end)

  it("are not slices", function()
    refuses("a slice is asked for as gpu:l40s.4", { node = "shard:l40s.4:1" })
  end)
end)

describe("everything else", function()
  it("passes untouched", function()
    for _, text in ipairs { "gpu:1", "gpu", "gpu:l40s:2", "gpu:l40s", "gpu=2",
      "gres:gpu:a100_3g.20gb:1", "gpu:nosuch:1", "nic:1", "tmp:1.5", "mem=1.5G", "", ",", ":",
      "gpu:", "gpu:.4", "none" } do
      passes(text)
    end
    assert.are.same({}, translate({}))
    assert.are.same({}, translate({ job = "1", task = "l40s:1", per_node = "l40s" }))
  end)

  it("is done twice without harm", function()
    local once = translate({ node = "gpu:l40s.4:1,nic:1" })
    assert.are.same({}, translate({ node = once.node }))
  end)
end)

describe("softmig.conf", function()
  local function parse(text) return rules.parse_shards(text, "softmig.conf") end

  it("has a number for all and one for each type", function()
    local shards = parse("# comment\r\n\n NUM_SHARDS_PER_GPU = 8 \r\nMEMORY_RESERVE[l40s]=512M\n" ..
      "NUM_SHARDS_PER_GPU[A100-SXM4]=2\nNUM_SHARDS_PER_GPU[rtx.6000]=1")
    assert.are.equal(8, shards.general)
    assert.are.same({ name = "A100-SXM4", count = 2 }, shards.types["a100-sxm4"])
    assert.are.same({ name = "rtx.6000", count = 1 }, shards.types["rtx.6000"])
  end)

  it("says four where it says nothing", function()
    assert.are.equal(4, parse("").general)
    assert.are.equal(4, parse("#NUM_SHARDS_PER_GPU=8").general)
    assert.are.equal(4, rules.read_shards("/nowhere/softmig.conf").general)
  end)

  it("names file, line, key and text of what is wrong", function()
    for text, fault in pairs {
      ["\nNUM_SHARDS_PER_GPU=0"] =
        'softmig.conf:2: NUM_SHARDS_PER_GPU: "0" is not a whole number from 1 to 32',
      ["NUM_SHARDS_PER_GPU=33"] = '"33" is not a whole number',
      ["NUM_SHARDS_PER_GPU="] = '"" is not a whole number',
      ["NUM_SHARDS_PER_GPU=4 # four"] = '"4 # four" is not',
      ["NUM_SHARDS_PER_GPU[a100]=x"] = 'softmig.conf:1: NUM_SHARDS_PER_GPU[a100]: "x" is not',
      ["NUM_SHARDS_PER_GPU[a,b]=4"] = '"a,b" is not a type of GPU',
      ["NUM_SHARDS_PER_GPU[a100=4"] = '"[a100" is not a type of GPU',
      ["NUM_SHARDS_PER_GPU[]=4"] = '"" is not a type of GPU',
    } do
      local shards, problem = parse(text)
      assert.is_nil(shards)
      assert.matches(fault, problem, 1, true)
    end
  end)

  it("that cannot be read is an error", function()
    local shards, problem = rules.read_shards("/")
    assert.is_nil(shards)
    assert.is_string(problem)
  end)

  it("that is broken stops slices and nothing else", function()
    local path = os.tmpname()
    local file = assert(io.open(path, "w"))
    file:write("NUM_SHARDS_PER_GPU=many\n")
    file:close()
    rules.CONF = path
    local changes, fault = rules.apply(request({ node = "gpu:l40s.4:1" }))
    local plain = rules.apply(request({ node = "gpu:l40s:1,nic:1" }))
    os.remove(path)
    assert.is_nil(changes)
    assert.matches("tell your administrators", fault, 1, true)
    assert.are.same({}, plain)
  end)
end)
