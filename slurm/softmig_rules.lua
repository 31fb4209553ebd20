-- What a request for GPUs means where GPUs are cut into slices: gpu:l40s.4:1 is a quarter of one
-- l40s, which Slurm knows as shards. One set of rules for job_submit (controller) and cli_filter
-- (clients).
--
-- Pure but for read_shards: no Slurm, no state. Lua 5.1 to 5.4.
--
-- An item of a list:   [gres:|gres/]name[:type][:count], where '=' may stand before the count
-- A slice:             name gpu or none, a type that ends in .N (one Nth of a GPU), count 1 or none
local rules = {}

rules.CONF = "/etc/softmig/softmig.conf"
rules.KEY = "NUM_SHARDS_PER_GPU"
rules.DEFAULT_SHARDS = 4
rules.MAX_SHARDS = 32

local TYPE = "[%w_%.%-]+"

-- Text that a user wrote, as part of one line: no control bytes, not endless.
local function quoted(text)
  text = text:gsub("[^\32-\126]", "?")
  if #text > 80 then text = text:sub(1, 77) .. "..." end
  return '"' .. text .. '"'
end

local function trim(text) return (text:gsub("^%s+", ""):gsub("%s+$", "")) end

local function items_of(text)
  local items = {}
  for item in text:gmatch("[^,]+") do items[#items + 1] = trim(item) end
  return items
end

---------------------------------------------------------------------------------------------------
-- softmig.conf: how many shards a GPU has

-- Takes the NUM_SHARDS_PER_GPU and NUM_SHARDS_PER_GPU[type] lines of a softmig.conf; the other keys
-- are not for these rules. Returns {general = count, types = {[lower case] = {name =, count =}}},
-- or nil and a text that names file, line and key.
function rules.parse_shards(text, path)
  local shards = { general = rules.DEFAULT_SHARDS, types = {} }
  local number = 0
  for line in (text .. "\n"):gmatch("(.-)\r?\n") do
    number = number + 1
    local rest, value = line:match("^%s*" .. rules.KEY .. "([^=]-)%s*=%s*(.-)%s*$")
    if rest then
      local place = path .. ":" .. number .. ": " .. rules.KEY .. rest .. ": "
      local name = rest:match("^%[(.*)%]$")
      if rest ~= "" and not (name and name:match("^" .. TYPE .. "$")) then
        return nil, place .. quoted(name or rest) .. " is not a type of GPU"
      end
      local count = value:match("^%d%d?$") and tonumber(value)
      if not count or count < 1 or count > rules.MAX_SHARDS then
        return nil,
          place .. quoted(value) .. " is not a whole number from 1 to " .. rules.MAX_SHARDS
      end
      if name then
        shards.types[name:lower()] = { name = name, count = count }
      else
        shards.general = count
      end
    end
  end
  return shards
end

-- As parse_shards, from the file; a file that is not there leaves the default for every type.
function rules.read_shards(path)
  path = path or rules.CONF
  local file, problem, code = io.open(path, "r")
  if not file then
    if code == 2 then return rules.parse_shards("", path) end
    return nil, problem
  end
  local text
  text, problem = file:read("*a")
  file:close()
  if not text then return nil, path .. ": " .. tostring(problem) end
  return rules.parse_shards(text, path)
end

-- The type as softmig.conf writes it, or in lower case, and its number of shards.
local function find_type(shards, name)
  local row = shards.types[name:lower()]
  if row then return row.name, row.count end
  return name:lower(), shards.general
end

local function most_shards(shards)
  local most = shards.general
  for _, row in pairs(shards.types) do most = math.max(most, row.count) end
  return most
end

---------------------------------------------------------------------------------------------------
-- One item

-- Type and count of what stands behind the name: "l40s.4:1", "l40s.4", "2", "=1".
local function split_body(body)
  local name, count = body:match("^([^:=]*)[:=](.*)$")
  if name then return name, count end
  if body:match("^%d+%a?$") then return nil, body end
  return body, nil
end

-- {text, shown, prefix, kind, type, count, denominator}; kind is "slice", "shard", "gpu", or
-- "other" for what is not ours to judge; `shown` is for messages. `bare` says that the item may be
-- a type without "gpu:" before it.
local function parse_item(text, bare, shards)
  local prefix, rest = "", text
  while rest:match("^[Gg][Rr][Ee][Ss][:/]") do
    prefix, rest = prefix == "" and rest:sub(1, 5):lower() or prefix, rest:sub(6)
  end
  local item = { text = text, shown = quoted(rest), prefix = prefix, kind = "other" }
  local name, mark, body = rest:match("^(%a+)([:=]?)(.*)$")
  name = name and name:lower()
  if (name == "gpu" or name == "shard") and (mark ~= "" or body == "") then
    item.kind = name
    if mark == "=" then
      item.count = body
    elseif mark == ":" then
      item.type, item.count = split_body(body)
    end
  elseif bare then
    item.kind = "gpu"
    item.type, item.count = split_body(rest)
  else
    item.type, item.count = split_body(rest)
    -- Without "gpu:" only a slice is known to be a GPU.
    if not item.type or not item.type:match("^" .. TYPE .. "%.%d+$") then return item end
    item.kind = "gpu"
  end
  local whole, denominator
  if item.type then whole, denominator = item.type:match("^(" .. TYPE .. ")%.(%d+)$") end
  if whole and not shards.types[item.type:lower()] then
    if item.kind == "gpu" then item.kind = "slice" end
    item.whole, item.denominator = whole, tonumber(denominator)
  end
  return item
end

local function offered(name, count)
  local names = {}
  for denominator = 2, count do
    if count % denominator == 0 then names[#names + 1] = name .. "." .. denominator end
  end
  return table.concat(names, " or ")
end

-- The shards that a slice stands for, or nil and what is wrong with it.
local function slice_in_shards(item, shards)
  local lower = item.whole:lower()
  if lower == "gpu" or lower == "shard" then
    return nil, item.shown .. " lacks the type of the GPU: ask for gpu:TYPE." .. item.denominator
  end
  local name, count = find_type(shards, item.whole)
  local advice = "ask for gpu:" .. name .. ":1"
  if item.denominator == 1 then
    return nil, item.shown .. " is no slice but a whole GPU: " .. advice
  elseif count == 1 then
    return nil, item.shown .. " cannot be had, " .. name .. " is not cut into slices: " .. advice
  elseif item.denominator < 1 or item.denominator > count or count % item.denominator ~= 0 then
    return nil, item.shown .. " is not a slice, " .. name .. " is cut into " .. count ..
        ": ask for " .. offered(name, count)
  elseif item.count and not item.count:match("^0*1$") then
    return nil, item.shown .. " is not one slice: ask for one (" .. offered(name, count) ..
        ") or for a whole GPU (gpu:" .. name .. ":1)"
  end
  return { type = name, count = count / item.denominator, prefix = item.prefix, shown = item.shown }
end

-- What is wrong with shards that were asked for by that name, or nil.
local function fault_of_shards(item, shards)
  if item.denominator then
    return item.shown .. ": a slice is asked for as gpu:" .. item.type
  end
  local count = tonumber((item.count or "1"):match("^%d+$"))
  if not count then return nil end -- Slurm's to judge
  local name, most = "GPU", most_shards(shards)
  if item.type then name, most = find_type(shards, item.type) end
  if count > most then
    return item.shown .. " can never start: a " .. name .. " has " .. most ..
        " shards, and a job's shards are on one GPU"
  end
end

---------------------------------------------------------------------------------------------------
-- A whole request

local function same(a, b) return a.type == b.type and a.count == b.count end

-- Takes all families apart. Returns the slice, and the first whole GPU and shards as texts, if
-- there are any; or nil and a refusal.
local function survey(request, shards)
  local found = {}
  for _, family in ipairs(request.families) do
    family.items = {}
    local slices_here = 0
    for _, text in ipairs(items_of(family.text or "")) do
      local item = parse_item(text, family.bare, shards)
      family.items[#family.items + 1] = item
      if item.kind == "slice" then
        local slice, fault = slice_in_shards(item, shards)
        if not slice then return nil, fault end
        if request.prefixed and item.prefix == "" then
          return nil, item.shown .. " would be taken for no GPU at all: use gres=gpu:" .. item.type
        end
        slices_here = slices_here + 1
        if slices_here > 1 or (found.slice and not same(found.slice, slice)) then
          return nil,
            item.shown .. " is a second slice, and a job can have one: ask for a larger one"
        end
        found.slice = found.slice or slice
        family.has_slice = true
      elseif item.kind == "shard" then
        local fault = fault_of_shards(item, shards)
        if fault then return nil, fault end
        family.has_shard = true
        found.shard = found.shard or item.shown
      elseif item.kind == "gpu" then
        found.gpu = found.gpu or item.shown
      end
    end
    if family.per == "socket" and (family.has_slice or family.has_shard) then
      return nil, family.items[1].shown .. ": a slice cannot be asked for per socket, use --gres"
    end
  end
  return found
end

-- A slice is had once per node; other counts are only the same where there is one node, or one
-- task.
local function fault_of_count(family, request, slice)
  local nodes, tasks = request.nodes, request.tasks
  if request.step then return nil end
  if family.per == "job" and nodes and nodes > 1 then
    return slice.shown .. " cannot be spread over " .. nodes ..
        " nodes: use --gpus-per-node for a slice on each"
  end
  if family.per == "task" and tasks and tasks > 1 and request.tasks_per_node ~= 1 then
    return slice.shown .. " cannot be had by each of " .. tasks ..
        " tasks: use --gres, and the tasks of a node share one slice"
  end
end

local function text_without_slices(family)
  local kept = {}
  for _, item in ipairs(family.items) do
    if item.kind ~= "slice" then kept[#kept + 1] = item.text end
  end
  return kept
end

local function prefix_for(family, slice)
  if slice.prefix ~= "" then return slice.prefix end
  for _, item in ipairs(family.items) do
    if item.prefix ~= "" then return item.prefix end
  end
  return ""
end

-- What has to be written where. `request`:
--   families        in order, the first is where slices go (it must be one of per = "node"):
--     key, text     the name of the field and what is in it (nil or "": nothing)
--     per           "node", "job", "task" or "socket"
--     bare          items are types of GPUs even without "gpu:"
--   per_gpu         options that count by GPU and were given, e.g. {"--cpus-per-gpu"}
--   nodes, tasks, tasks_per_node   numbers, nil if not known
--   prefixed        all items come with "gres:" or "gres/", and without it Slurm ignores them
--   step            inside of a job: it has its slice already
-- Returns {key = new text} with what changes, {} for nothing; or nil and a line for the user.
function rules.translate(request, shards)
  local found, fault = survey(request, shards)
  if not found then return nil, fault end
  local slice, changes = found.slice, {}
  if not slice then return changes end
  local other = found.gpu or found.shard
  if other then
    return nil, slice.shown .. " and " .. other .. " cannot be had in one job"
  end
  local home = request.families[1]
  local nothing = request.step and home.text == "none"
  local per_gpu = request.per_gpu and request.per_gpu[1]
  if per_gpu then
    return nil, per_gpu .. " counts whole GPUs and does not go with " .. slice.shown ..
        ": use --cpus-per-task and --mem"
  end
  for _, family in ipairs(request.families) do
    if family.has_slice then
      fault = fault_of_count(family, request, slice)
      if fault then return nil, fault end
      changes[family.key] = table.concat(text_without_slices(family), ",")
    end
  end
  -- srun --gres=none in a job that left SLURM_GPUS=l40s.4 behind: a step without its slice.
  if nothing then return changes end
  local items = text_without_slices(home)
  items[#items + 1] =
    string.format("%sshard:%s:%d", prefix_for(home, slice), slice.type, slice.count)
  changes[home.key] = table.concat(items, ",")
  return changes
end

-- Whether any of it could be a slice or shards: all else is none of our business, even while
-- softmig.conf is broken.
function rules.concerns(request)
  local none = { general = rules.DEFAULT_SHARDS, types = {} }
  for _, family in ipairs(request.families) do
    for _, text in ipairs(items_of(family.text or "")) do
      local kind = parse_item(text, family.bare, none).kind
      if kind == "slice" or kind == "shard" then return true end
    end
  end
  return false
end

-- rules.translate with the shards of this machine's softmig.conf.
function rules.apply(request)
  if not rules.concerns(request) then return {} end
  local shards, fault = rules.read_shards()
  if not shards then return nil, fault .. " (tell your administrators)" end
  return rules.translate(request, shards)
end

return rules
