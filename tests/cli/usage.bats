#!/usr/bin/env bats
# Command lines that make no sense: what was typed, where help is, status 2.

# shellcheck disable=SC2154 # variables of bats
load helpers

# says COMMAND TEXT: standard error of the command line, and nothing else.
says() {
  local text=$1
  shift
  run -2 --separate-stderr "$@"
  [ -z "$output" ]
  [ "${stderr_lines[0]}" = "$text" ]
  [[ "${stderr_lines[1]}" == "  softmig"*" --help tells more" ]]
  [ "${#stderr_lines[@]}" -eq 2 ]
}

@test "a command that does not exist" {
  says "softmig: no such command: limit" "$SOFTMIG" limit
  says "softmig: no such option: --limits" "$SOFTMIG" --limits
  says "softmig: A subcommand is required" "$SOFTMIG"
  says "softmig config: no such command: chek" "$SOFTMIG" config chek
}

@test "an option that a command does not have" {
  for command in limits status top report region demo calibrate install uninstall doctor version \
    processes job-start job-end; do
    says "softmig $command: The following argument was not expected: --nothing" \
      "$SOFTMIG" "$command" --nothing
  done
  says "softmig config check: no such option: --nothing" "$SOFTMIG" config check --nothing
  says "softmig config check: FILE is required" "$SOFTMIG" config check
}

@test "a value that is none" {
  says "softmig top: --count: Value 0 not in range 1 to 1000000" "$SOFTMIG" top -n 0
  says "softmig top: --interval: 1 required SECONDS missing" "$SOFTMIG" top --interval
}

@test "nothing that was typed steers the terminal" {
  says 'softmig: no such command: \x1b[2Jlimits' "$SOFTMIG" $'\e[2Jlimits'
}

@test "softmig run has the statuses of env and timeout" {
  run -125 --separate-stderr "$SOFTMIG" run --nothing -- true
  [ "${stderr_lines[0]}" = "softmig run: no such option: --nothing" ]
  run -125 --separate-stderr "$SOFTMIG" run --memory lots -- true
  [ "${stderr_lines[0]}" = 'softmig run: --memory: "lots" is not a size such as 12288M, 24G or 1.5GiB' ]
}

@test "softmigd" {
  if [ ! -x "$SOFTMIG"d ]; then skip "softmigd was not built"; fi
  says "softmigd: The following argument was not expected: --nothing" "$SOFTMIG"d --nothing
  says "softmigd: The following argument was not expected: more" "$SOFTMIG"d more
  says "softmigd: --config: 1 required FILE missing" "$SOFTMIG"d --config
  version=$("$SOFTMIG" --version)
  [ "$("$SOFTMIG"d --version)" = "softmigd ${version#softmig }" ]
}
