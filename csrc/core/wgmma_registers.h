// Texts of wgmma's inline assembly: the names of its accumulators, and their constraints.  Included
// by core/hopper_primitives.cuh alone, which undefines them again.
#define FUSEDML_TEN(t) \
  "%" t "0,%" t "1,%" t "2,%" t "3,%" t "4,%" t "5,%" t "6,%" t "7,%" t "8,%" t "9,"
#define FUSEDML_THIRTY_FROM_0 FUSEDML_TEN("") FUSEDML_TEN("1") FUSEDML_TEN("2")
#define FUSEDML_THIRTY_FROM_30 FUSEDML_TEN("3") FUSEDML_TEN("4") FUSEDML_TEN("5")
#define FUSEDML_THIRTY_FROM_60 FUSEDML_TEN("6") FUSEDML_TEN("7") FUSEDML_TEN("8")
#define FUSEDML_THIRTY_FROM_90 FUSEDML_TEN("9") FUSEDML_TEN("10") FUSEDML_TEN("11")
#define FUSEDML_SIXTY FUSEDML_THIRTY_FROM_0 FUSEDML_THIRTY_FROM_30
#define FUSEDML_NINETY FUSEDML_SIXTY FUSEDML_THIRTY_FROM_60
#define FUSEDML_NAMES_32 FUSEDML_THIRTY_FROM_0 "%30,%31"
#define FUSEDML_NAMES_64 FUSEDML_SIXTY "%60,%61,%62,%63"
#define FUSEDML_NAMES_96 FUSEDML_NINETY "%90,%91,%92,%93,%94,%95"
#define FUSEDML_LAST_8 "%120,%121,%122,%123,%124,%125,%126,%127"
#define FUSEDML_NAMES_128 FUSEDML_NINETY FUSEDML_THIRTY_FROM_90 FUSEDML_LAST_8

#define FUSEDML_SUMS_8(i)                                                                     \
  "+f"(d[i]), "+f"(d[i + 1]), "+f"(d[i + 2]), "+f"(d[i + 3]), "+f"(d[i + 4]), "+f"(d[i + 5]), \
      "+f"(d[i + 6]), "+f"(d[i + 7])
#define FUSEDML_SUMS_32_FROM(i) \
  FUSEDML_SUMS_8(i), FUSEDML_SUMS_8(i + 8), FUSEDML_SUMS_8(i + 16), FUSEDML_SUMS_8(i + 24)
#define FUSEDML_SUMS_32 FUSEDML_SUMS_32_FROM(0)
#define FUSEDML_SUMS_64 FUSEDML_SUMS_32, FUSEDML_SUMS_32_FROM(32)
#define FUSEDML_SUMS_96 FUSEDML_SUMS_64, FUSEDML_SUMS_32_FROM(64)
#define FUSEDML_SUMS_128 FUSEDML_SUMS_96, FUSEDML_SUMS_32_FROM(96)

/// cols: of the tile, as text; sums: accumulators of a thread; then the names of the operands that
/// follow them.  The predicate says whether D += A B or D = A B; 1, 1: neither operand is negated.
#define FUSEDML_WGMMA_SHARED(type, cols, sums, a_name, b_name, adds_name, a_major, b_major) \
  asm volatile("{\n.reg .pred adds;\nsetp.ne.b32 adds, " adds_name                          \
               ", 0;\nwgmma.mma_async.sync.aligned.m64n" cols "k16.f32." type "." type      \
               " {" FUSEDML_NAMES_##sums "}, " a_name ", " b_name ", adds, 1, 1, " a_major  \
                                         ", " b_major ";\n}\n"                              \
               : FUSEDML_SUMS_##sums                                                        \
               : "l"(a), "l"(b), "r"(int(adds)), "n"(int(kMajorOfA)), "n"(int(kMajorOfB)))
#define FUSEDML_WGMMA_REGISTERS(type, cols, sums, a0, a1, a2, a3, b_name, adds_name, b_major) \
  asm volatile("{\n.reg .pred adds;\nsetp.ne.b32 adds, " adds_name                            \
               ", 0;\nwgmma.mma_async.sync.aligned.m64n" cols "k16.f32." type "." type        \
               " {" FUSEDML_NAMES_##sums "}, {" a0 "," a1 "," a2 "," a3 "}, " b_name          \
                                         ", adds, 1, 1, " b_major ";\n}\n"                    \
               : FUSEDML_SUMS_##sums                                                          \
               : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(int(adds)),          \
                 "n"(int(kMajorOfB)))
