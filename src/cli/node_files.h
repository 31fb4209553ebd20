// Files that `softmig install` writes. The packages bring the same ones: their text is taken from
// packaging/ and scripts/ when the command is built.
#pragma once

namespace softmig::cli {

extern const char kTmpfilesText[];
extern const char kLogrotateText[];
extern const char kSmiHookText[];

}  // namespace softmig::cli
