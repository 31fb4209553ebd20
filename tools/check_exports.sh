#!/bin/sh
# Checks that a library may be loaded into every process of a node.
#
#   check_exports.sh LIB        exit status 0: all well, 1: not, with one line a fault
#
# A missing needed library, or a symbol version that the node's libc does not have, stops every exec
# on the node; a constructor runs in every shell. Works on libraries of any architecture.
set -u

floor=2.17 # the oldest glibc that we run on
# What the dynamic linker may have to do at every exec: words to move, symbols to look up.
most_words=128
most_symbols=8

if [ $# -ne 1 ] || [ ! -f "$1" ]; then
  echo "usage: $0 LIB" >&2
  exit 2
fi
library=$1
faults=0

fault() {
  echo "$library: $1"
  faults=$((faults + 1))
}

dynamic=$(LC_ALL=C readelf -dW "$library") || exit 2
symbols=$(LC_ALL=C readelf --dyn-syms -W "$library" | tail -n +4)
sections=$(LC_ALL=C readelf -SW "$library" | sed 's/^ *\[ *[0-9]*\] *//')

needed=$(echo "$dynamic" | sed -n 's/.*(NEEDED).*\[\(.*\)\]/\1/p')
if [ "$needed" != "libc.so.6" ]; then
  fault "NEEDED is '$(echo "$needed" | tr '\n' ' ')', not libc.so.6 alone"
fi

for tag in TEXTREL RPATH RUNPATH; do
  if echo "$dynamic" | grep -q "$tag"; then fault "has $tag"; fi
done

# Undefined symbols: nothing newer than the floor, nothing of another library.
for version in $(echo "$symbols" | awk '$7 == "UND"' | grep -o '@[A-Za-z_0-9.]*' | sort -u); do
  case $version in
    @GLIBC_[0-9]*)
      number=${version#@GLIBC_}
      newest=$(printf '%s\n%s\n' "$number" "$floor" | sort -V | tail -n 1)
      [ "$newest" = "$floor" ] && continue
      users=$(echo "$symbols" | grep -F "$version " | awk '{print $8}' | tr '\n' ' ')
      fault "needs GLIBC_$number: $users"
      ;;
    *) fault "needs version $version" ;;
  esac
done

# A named version would keep an application's dlsym from binding to ours.
if echo "$sections" | grep -q '^\.gnu\.version_d '; then fault "has named symbol versions"; fi

for name in $(echo "$symbols" | awk '$7 != "UND" && $5 != "LOCAL" {print $8}'); do
  case ${name%%@*} in
    cu[A-Z]* | nvml[A-Z]* | dlsym | dlvsym) ;;
    *) fault "exports $name" ;;
  esac
done

# The C runtime's own start and end code takes one entry each.
word=$(LC_ALL=C readelf -h "$library" | awk '/Class:/ {print $2 == "ELF64" ? 8 : 4}')
for table in .preinit_array .init_array .fini_array; do
  size=$(echo "$sections" | awk -v t="$table" '$1 == t {print $5}')
  [ -z "$size" ] && continue
  [ $((0x$size)) -le "$word" ] && [ "$table" != .preinit_array ] && continue
  fault "$table has $((0x$size / word)) entries: a constructor or destructor of ours"
done

# Slots of functions (JUMP_SLOT) wait for the first call.
relocations=$(LC_ALL=C readelf -rW "$library" | awk '$3 ~ /^R_/ && $3 !~ /JUMP_SLO/ {print $3}')
words=$(echo "$relocations" | grep -c RELATIVE)
symbols_at_start=$(echo "$relocations" | grep -vc -e RELATIVE -e '^$')
if [ "$words" -gt "$most_words" ]; then
  fault "$words words are relocated at every exec, $most_words may be"
fi
if [ "$symbols_at_start" -gt "$most_symbols" ]; then
  fault "$symbols_at_start symbols are looked up at every exec, $most_symbols may be"
fi
if echo "$dynamic" | grep -q -e BIND_NOW -e 'Flags:.*NOW'; then
  fault "looks up all its symbols at every exec (-z now)"
fi

if LC_ALL=C readelf -lW "$library" | grep -q 'GNU_STACK.*RWE'; then
  fault "asks for an executable stack"
fi

[ "$faults" -eq 0 ] && echo "$library: fit to be preloaded"
[ "$faults" -eq 0 ]
