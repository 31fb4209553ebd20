// printf's language into a Text, without the C library's printf: no locale, no allocation, no
// locks, so it may run in a signal handler. What is interpolated is escaped (Text::add_escaped),
// what the format itself says is not.
#pragma once

#include <cstdarg>

#include "base/text.h"

namespace softmig::base {

// Knows %s (also %.Ns and %.*s; %-s for what was made here and is escaped already), %c, %d %i %u %x
// %p %f with l, ll, z, t, a zero-padded width ("%08x") and, for %f, a precision of at most 9; and
// %%. A conversion beyond that ends the text with the rest of the format as it stands, since the
// arguments can no longer be told apart.
void format(Text& text, const char* format, va_list arguments);
[[gnu::format(printf, 2, 3)]] void format(Text& text, const char* format, ...);

}  // namespace softmig::base
