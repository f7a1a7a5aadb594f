/* Risk: a rounding that is off by one unit in a corner of fp16 or bf16 (ties, subnormals, overflow, NaN).
 * The reference works on doubles with ldexp() and knows nothing of the bit tricks in the header. */
#include "common.h"

typedef struct {
    spinfer_dtype dtype;
    int           mantissa_bits, min_exponent; /* of the smallest normal number */
    uint16_t      infinity;
} float_kind;

static const float_kind kinds[2] = {{SPINFER_FP16, 10, -14, 0x7c00}, {SPINFER_BF16, 7, -126, 0x7f80}};

/* The value of a pattern without its sign. "Infinity" gets the value that the next finite number would have, which is
 * what rounding by IEEE 754 goes by. */
static double magnitude(const float_kind *kind, uint16_t bits)
{
    const int exponent = bits >> kind->mantissa_bits, fraction = bits & ((1 << kind->mantissa_bits) - 1);
    if (exponent == 0) return ldexp(fraction, kind->min_exponent - kind->mantissa_bits);
    return ldexp(fraction + (1 << kind->mantissa_bits), kind->min_exponent + exponent - 1 - kind->mantissa_bits);
}

/* Nearest pattern of a finite value >= 0, ties to even. */
static uint16_t nearest(const float_kind *kind, double value)
{
    int    exponent;
    double steps;
    if (value >= magnitude(kind, kind->infinity)) return kind->infinity;
    frexp(value, &exponent); /* value = [0.5, 1) * 2^exponent */
    exponent = value > 0 && exponent - 1 > kind->min_exponent ? exponent - 1 : kind->min_exponent;
    steps = nearbyint(ldexp(value, kind->mantissa_bits - exponent)); /* in units of the last place; ties to even */
    /* The exponent field and the fraction are one number, so that a carry out of the fraction is right by itself. */
    return (uint16_t)(((exponent - kind->min_exponent) << kind->mantissa_bits) + (int)steps);
}

static void check_rounds_to(const float_kind *kind, float value, uint16_t expected)
{
    CHECK(spinfer_from_float(value, kind->dtype) == expected);
    CHECK(spinfer_from_float(-value, kind->dtype) == (expected | 0x8000));
}

static void test_all_patterns(const float_kind *kind)
{
    int i;
    for (i = 0; i < 65536; i++) {
        const uint16_t bits = (uint16_t)i, rest = bits & 0x7fff;
        const float    value = spinfer_to_float(bits, kind->dtype);
        const uint16_t back = spinfer_from_float(value, kind->dtype);
        CHECK((signbit(value) != 0) == (bits >> 15));
        if (rest > kind->infinity) { /* NaN stays NaN and keeps sign and payload; it may become a quiet one */
            CHECK(isnan(value) && (back | 1 << (kind->mantissa_bits - 1)) == (bits | 1 << (kind->mantissa_bits - 1)));
            CHECK((back & 0x7fff) > kind->infinity);
        } else {
            CHECK(rest == kind->infinity ? isinf(value) : fabs((double)value) == magnitude(kind, rest));
            CHECK(back == bits);
        }
    }
}

/* Between every two neighbours: the middle goes to the even one, and one float to the left or right decides. */
static void test_midpoints(const float_kind *kind)
{
    uint16_t bits;
    for (bits = 0; bits < kind->infinity; bits++) {
        const uint16_t next = (uint16_t)(bits + 1), even = (bits & 1) ? next : bits;
        const double   low = magnitude(kind, bits), high = magnitude(kind, next);
        const float    middle = (float)((low + high) / 2);
        CHECK((double)middle == (low + high) / 2); /* fp32 holds it, so the three floats are what they seem */
        check_rounds_to(kind, middle, even);
        check_rounds_to(kind, nextafterf(middle, 0), bits);
        check_rounds_to(kind, nextafterf(middle, INFINITY), next);
        check_rounds_to(kind, nextafterf((float)low, INFINITY), bits);
        if (bits > 0) check_rounds_to(kind, nextafterf((float)low, 0), bits);
    }
    check_rounds_to(kind, INFINITY, kind->infinity);
    check_rounds_to(kind, 0x1.fffffep127f, kind->infinity);
}

/* fp32 patterns from one end to the other, by a prime step. */
static long long test_sweep(const float_kind *kind)
{
    long long count = 0;
    uint64_t  pattern;
    for (pattern = 0; pattern <= 0x7fffffff; pattern += 1021, count++) {
        const uint32_t word = (uint32_t)pattern;
        float          value;
        memcpy(&value, &word, 4);
        if (isnan(value)) { /* quiet, the top of the payload kept, the sign too */
            const uint16_t quiet = (uint16_t)(kind->infinity | 1u << (kind->mantissa_bits - 1) |
                                              (word & 0x7fffffu) >> (23 - kind->mantissa_bits));
            check_rounds_to(kind, value, quiet);
        } else {
            check_rounds_to(kind, value, isinf(value) ? kind->infinity : nearest(kind, (double)value));
        }
    }
    return count;
}

/* A payload in bits that the 16-bit type lacks must not turn NaN into infinity. */
static void test_low_payload(const float_kind *kind)
{
    int bit, sign;
    for (sign = 0; sign < 2; sign++)
        for (bit = 0; bit < 23; bit++) {
            const uint32_t word = (uint32_t)sign << 31 | 0x7f800000u | 1u << bit;
            uint16_t       bits;
            float          value;
            memcpy(&value, &word, 4);
            bits = spinfer_from_float(value, kind->dtype);
            CHECK((bits & 0x7fff) > kind->infinity && bits >> 15 == sign);
        }
}

int main(void)
{
    long long swept = 0;
    int       i;
    for (i = 0; i < 2; i++) {
        test_all_patterns(&kinds[i]);
        test_midpoints(&kinds[i]);
        test_low_payload(&kinds[i]);
        swept += test_sweep(&kinds[i]);
    }
    printf("floats: fp16 and bf16, all 65536 patterns, all midpoints and their neighbours, %lld fp32 values of both "
           "signs: OK\n", swept);
    return 0;
}
