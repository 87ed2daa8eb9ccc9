#!/bin/sh
# isa_test.sh OBJDUMP ARCHIVE...: fails when an object file other than *_avx512.cpp.o and *_amx.cpp.o holds an
# instruction of AVX-512. These are the ones with an EVEX prefix, the byte 62, which means nothing else in 64-bit code.
objdump=$1
shift
"$objdump" -d --insn-width=15 "$@" | awk '
  /file format/ { object = $1; wide = object ~ /_(avx512|amx)\.cpp/; next }
  /^ *[0-9a-f]+:\t((26|2e|36|3e|64|65|67) )*62 / {
    if (wide) { found++; next }
    if (bad++ < 5) print object $0
  }
  END {
    print bad + 0, "instructions of AVX-512 where none may be,", found + 0, "in the files for it"
    exit bad > 0 || !found
  }'
