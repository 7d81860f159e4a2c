-- Runs in Envoy for each request. The same rules as the library's codec, so that mesh and application always see the same key:
-- all lines of a header count, the last member of a name wins, names and values are percent-decoded, properties are cut off.
-- The renderer sets READ, HEADER, RESERVED and STRIP above this line.
-- Whatever a client can send is only ever searched with plain `find` or with patterns that cannot backtrack: time is linear.

local byte, char, find, gmatch, gsub, lower, sub =
  string.byte, string.char, string.find, string.gmatch, string.gsub, string.lower, string.sub

local OWS = { [9] = true, [32] = true }
local SPACE = { [9] = true, [10] = true, [11] = true, [12] = true, [13] = true, [32] = true,
                [28] = true, [29] = true, [30] = true, [31] = true }

local function trimmed(text, space)
  local first, last = 1, #text
  while first <= last and space[byte(text, first)] do first = first + 1 end
  while last >= first and space[byte(text, last)] do last = last - 1 end
  return sub(text, first, last)
end

local function unhex(digits) return char(tonumber(digits, 16)) end

local function decoded(text)
  text = gsub(text, "%+", " ")
  text = gsub(text, "%%(%x%x)", unhex)
  return trimmed(text, SPACE)
end

local function encoded(text)
  return find(text, "%", 1, true) or find(text, "+", 1, true)
end

-- The last value of the members called `name`, or nil.
local function last_member(raw, name, decode)
  if not find(raw, name, 1, true) and not (decode and encoded(raw)) then return nil end
  local value
  for member in gmatch(raw, "[^,]+") do
    local equals = find(member, "=", 1, true)
    if equals then
      local own = trimmed(sub(member, 1, equals - 1), OWS)
      if decode and encoded(own) then own = decoded(own) end
      if own == name then
        local properties = find(member, ";", equals, true)
        value = trimmed(sub(member, equals + 1, properties and properties - 1), OWS)
        if encoded(value) then value = decoded(value) end
      end
    end
  end
  return value
end

-- What stands behind the last comma of a header of its own.
local function last_part(raw)
  local start = 1
  while true do
    local comma = find(raw, ",", start, true)
    if not comma then return trimmed(sub(raw, start), OWS) end
    start = comma + 1
  end
end

-- The key, from the first field that says anything; nil where that is not a routing key.
local function read(headers)
  for _, field in ipairs(READ) do
    local kind, name = field[1], field[2]
    local raw = headers:get(kind == "header" and name or kind)
    local value
    if raw then
      if kind == "header" then value = last_part(raw) else value = last_member(raw, name, kind == "baggage") end
    end
    if value then
      local valid = #value <= 63 and find(value, "^[a-z0-9][a-z0-9-]*$") and byte(value, -1) ~= 45 and not RESERVED[value]
      return valid and value or nil
    end
  end
  return nil
end

-- WSGI and CGI servers read "_" and "-" in header names as the same.
local function folded(text)
  local plain = gsub(lower(text), "_", "-")
  return plain
end

-- Whether any reader could find one of our names in a text. Wider than our own codec on purpose: other readers decode twice, ignore
-- case or split elsewhere, and what comes in from the public loses nothing if a doubtful member is taken for ours.
local function mentions(text)
  for _ = 1, 4 do
    local plain = folded(text)
    for _, name in ipairs(STRIP.members) do
      if find(plain, name, 1, true) then return true end
    end
    if not encoded(text) then return false end
    local again = decoded(text)
    if again == text then return false end
    text = again
  end
  return true -- encoded over and over
end

local function strip(headers)
  local ours = {}
  for name in pairs(headers) do
    if STRIP.headers[folded(name)] then ours[#ours + 1] = name end
  end
  for _, name in ipairs(ours) do headers:remove(name) end
  for _, list in ipairs(STRIP.lists) do
    local raw = headers:get(list)
    if raw and mentions(raw) then
      local lines = {}
      for index = 0, headers:getNumValues(list) - 1 do
        local kept = {}
        for member in gmatch(headers:getAtIndex(list, index), "[^,]+") do
          if not mentions(member) then kept[#kept + 1] = member end
        end
        if #kept > 0 then lines[#lines + 1] = table.concat(kept, ",") end
      end
      headers:remove(list)
      for _, line in ipairs(lines) do headers:add(list, line) end
    end
  end
end

function envoy_on_request(handle)
  local headers = handle:headers()
  if STRIP and not pcall(strip, headers) then -- fail closed
    for _, list in ipairs(STRIP.lists) do headers:remove(list) end
    for name in pairs(STRIP.headers) do headers:remove(name) end
  end
  local ok, key = pcall(read, headers)
  if not ok then key = nil end
  if key or headers:get(HEADER) then
    headers:remove(HEADER) -- a client's own
    if key then headers:add(HEADER, key) end
    -- Envoy chose a route before this filter ran. Where a script changes headers it chooses again by itself, but only by default.
    handle:clearRouteCache()
  end
end
