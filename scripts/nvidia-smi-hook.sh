#!/bin/sh
# nvidia-smi for GPUs that jobs share: it shows the processes of one's own job and no others.
#
#   softmig install --nvidia-smi-hook, or:
#   mv /usr/bin/nvidia-smi /usr/bin/nvidia-smi.real
#   install -m 755 nvidia-smi-hook.sh /usr/bin/nvidia-smi
#
# The preloaded library shows the slice's memory to nvidia-smi, but its list of processes comes by a
# door without a name (docs/security.md). So nvidia-smi runs as it is, and the lines of processes that
# are not of this job (`softmig processes`) are taken out of what it prints: of the table, of -q, -q
# -x, pmon, --query-compute-apps and --query-accounted-apps. Exit status, options and everything else
# are nvidia-smi's own. Outside of jobs and slices it is nvidia-smi, exec'd. Where it cannot be told
# whose a process is, it is not shown.
#
# softmig-nvidia-smi-hook: by this word the script knows copies of itself, which it does not call.
set -uf
marker='softmig-nvidia-smi-hook'
mark=$(printf '\037%s:' "$marker") # before what the two ends of the pipe tell each other
nl='
'

fail() {
  printf 'nvidia-smi: %s\n' "$1" >&2
  exit 127
}

case $0 in
  */*) here=${0%/*} ;;
  *) here=. ;;
esac

is_real() { [ -f "$1" ] && [ -x "$1" ] && ! grep -q "$marker" "$1"; }

find_real() {
  for real in "$here/nvidia-smi.real" /usr/bin/nvidia-smi.real /usr/local/bin/nvidia-smi.real; do
    if is_real "$real"; then return; fi
  done
  rest=$PATH:
  while [ -n "$rest" ]; do
    real=${rest%%:*}/nvidia-smi
    rest=${rest#*:}
    if is_real "$real"; then return; fi
  done
  fail "there is no nvidia-smi.real: was it moved there from nvidia-smi?"
}

find_softmig() {
  for softmig in "$here/softmig" /usr/bin/softmig /usr/local/bin/softmig /opt/softmig/bin/softmig; do
    if [ -x "$softmig" ]; then return; fi
  done
  softmig=softmig
}

# The processes of this job, one a line. Status as `softmig processes`.
ask_own() { own=$("$softmig" processes 2>/dev/null </dev/null); }

own='' foreign=''
is_own() {
  case $nl$own$nl in *"$nl$1$nl"*) return 0 ;; esac
  case " $foreign " in *" $1 "*) return 1 ;; esac
  # It may have come since we asked.
  ask_own || own=
  case $nl$own$nl in *"$nl$1$nl"*) return 0 ;; esac
  foreign="$foreign $1"
  return 1
}

is_number() { case $1 in '' | *[!0-9]*) return 1 ;; esac }

# What comes between lines is as it came, a last line without an end included.
end=$nl
emit() { printf '%s%s' "$1" "$end"; }

# |    0   N/A  N/A           12345      C   python                    518MiB |
table_row() {
  row=$1
  # shellcheck disable=SC2086 # into words
  set -- $1
  if [ "$has_instances" = yes ]; then pid=${5-}; else pid=${3-}; fi
  if [ "${2-}" = No ] || { is_number "$pid" && is_own "$pid"; }; then
    emit "$row"
    shown=yes
  fi
}

end_table() {
  if [ "$shown" = no ]; then printf "|  %-$((width - 4))s|\n" "No running processes found"; fi
}

#     Processes
#         GPU instance ID                   : N/A
#         Process ID                        : 12345
#             Type                          : C
list_line() {
  case $1 in
    '            '*) [ "$keep" = no ] || emit "$1" ;;
    '        Process ID '*)
      keep=no
      pid=${1##*: }
      if is_own "${pid%% *}"; then
        keep=yes
        if [ "$shown" = no ]; then printf '%s\n' "$header"; fi
        printf '%s' "$held"
        emit "$1"
        shown=yes
      fi
      held=''
      ;;
    *)
      keep=no
      held=$held$1$nl
      ;;
  esac
}

end_list() {
  if [ "$shown" = no ]; then
    printf "%-${column}s: None\n" "${header%"${header##*[! ]}"}"
  fi
}

#     <process_info> ... <pid>12345</pid> ... </process_info>
xml_line() {
  held=$held$1$end
  case $1 in
    *'<pid>'*)
      pid=${1#*<pid>}
      if is_own "${pid%%<*}"; then keep=yes; fi
      ;;
    *'</process_info>'* | *'</accounted_process_info>'*)
      [ "$keep" = no ] || printf '%s' "$held"
      state=text
      ;;
  esac
}

# The hook asked for the pid before all else: 12345, python, 518 MiB
csv_line() {
  rest=${1#*,}
  rest=${rest# }
  case $1 in
    pid,*) emit "$rest" ;;
    *,*) if is_number "${1%%,*}" && is_own "${1%%,*}"; then emit "$rest"; fi ;;
    *) emit "$1" ;;
  esac
}

# # gpu         pid   type     sm    mem    command        The column of the pid.
find_column() {
  foreign=''
  count=0
  IFS=' ,'
  # shellcheck disable=SC2086 # into words
  set -- ${1#?}
  unset IFS
  for word in "$@"; do
    count=$((count + 1))
    case $word in pid | PID | Process) pid_column=$count ;; esac
  done
}

column_line() {
  whole=$1
  IFS=' ,'
  # shellcheck disable=SC2086 # into words
  set -- $1
  unset IFS
  eval "pid=\${$pid_column-}"
  if is_number "$pid"; then
    if is_own "$pid"; then emit "$whole"; fi
  elif [ "$pid" = - ] || ! is_number "${1-}"; then
    emit "$whole" # an idle GPU, or a message
  fi
}

text_line() {
  case $1 in
    '| Processes:'*)
      state=head has_instances=no
      emit "$1"
      ;;
    '    Processes' | '    Processes ' | '    '[!\ ]*' Processes' | '    '[!\ ]*' Processes ')
      state=list header=$1 shown=no keep=no held='' foreign=''
      ;;
    *'<process_info>'* | *'<accounted_process_info>'*)
      state=xml keep=no held=''
      xml_line "$1"
      ;;
    '#'*)
      find_column "$1"
      emit "$1"
      ;;
    *)
      case $1 in
        '    '*' : '*)
          column=${1%%:*}
          column=${#column}
          ;;
      esac
      if [ "$pid_column" != 0 ]; then column_line "$1"; else emit "$1"; fi
      ;;
  esac
}

filter_line() {
  lines=$((lines + 1))
  [ $((lines % 64)) != 0 ] || foreign=''
  case $state in
    csv) csv_line "$1" ;;
    xml) xml_line "$1" ;;
    head)
      emit "$1"
      case $1 in
        *' GI '*) has_instances=yes ;;
        '|='*) state=rows shown=no width=${#1} foreign='' ;;
      esac
      ;;
    rows)
      case $1 in
        '|'*) table_row "$1" ;;
        '+'*)
          end_table
          state=text
          emit "$1"
          ;;
      esac
      ;;
    list)
      case $1 in
        '        '*) list_line "$1" ;;
        *)
          end_list
          state=text
          text_line "$1"
          ;;
      esac
      ;;
    *) text_line "$1" ;;
  esac
}

# Reads what nvidia-smi prints; its status is nvidia-smi's.
filter() {
  real_pid='' status=1 lines=0 column=50
  trap '[ -z "$real_pid" ] || kill "$real_pid" 2>/dev/null; exit 143' TERM
  while IFS= read -r line; do
    case $line in
      *"$mark"*)
        told=${line##*"$mark"}
        line=${line%%"$mark"*}
        case $told in
          pid=*) real_pid=${told#pid=} ;;
          *) status=${told#status=} ;;
        esac
        [ -n "$line" ] || continue
        end=''
        ;;
    esac
    filter_line "$line"
  done
  if [ "$state" = list ]; then end_list; fi
  exit "$status"
}

[ -z "${SOFTMIG_IN_NVIDIA_SMI-}" ] || fail "the hook was called by what it calls"
find_real
find_softmig
ask_own
case $? in
  0) ;;
  3) exec "$real" "$@" ;;
  *)
    softmig=false own=''
    echo "nvidia-smi: softmig cannot tell which processes are of this job: none is shown" >&2
    ;;
esac
SOFTMIG_IN_NVIDIA_SMI=yes
export SOFTMIG_IN_NVIDIA_SMI

# Options that change what is printed: the file that nvidia-smi would write itself, and the columns.
state=text pid_column=0 file='' next='' own_file=no
case ${1-} in
  pmon) own_file=yes pid_column=2 ;;
  '' | -*) own_file=yes ;;
esac
for word; do
  shift
  option=$next next=''
  case $option in
    file)
      file=$word
      continue
      ;;
    query) word=pid,$word ;;
    columns) case $word in DT | TD) pid_column=4 ;; D | T) pid_column=3 ;; esac ;;
  esac
  case $word in
    --query-compute-apps=* | --query-accounted-apps=*)
      state=csv
      word=${word%%=*}=pid,${word#*=}
      ;;
    --query-compute-apps | --query-accounted-apps) state=csv next=query ;;
    -o | --options) [ "$pid_column" = 0 ] || next=columns ;;
    -f | --filename)
      if [ "$own_file" = yes ]; then
        next='file'
        continue
      fi
      ;;
    --filename=*)
      if [ "$own_file" = yes ]; then
        file=${word#*=}
        continue
      fi
      ;;
  esac
  set -- "$@" "$word"
done
if [ -n "$file" ]; then exec >"$file" || exit 1; fi

# The filter is waited for, and told, by hand: a shell in the midst of a pipeline hears no signal.
exec 3<&0
{
  # shellcheck disable=SC2016 # for the shell that becomes nvidia-smi
  sh -c 'printf "%spid=%s\n" "$1" "$$"; shift; exec "$@"' sh "$mark" "$real" "$@" <&3
  printf '%sstatus=%d\n' "$mark" "$?"
} 3<&0 | filter 3<&- &
filter=$!
trap 'kill "$filter" 2>/dev/null; exit 129' HUP
trap 'kill "$filter" 2>/dev/null; exit 130' INT
trap 'kill "$filter" 2>/dev/null; exit 143' TERM
wait "$filter"
