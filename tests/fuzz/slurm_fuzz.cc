// What Slurm's commands print, with texts of users in it. The first byte chooses the reader.
#include <string>

#include "cli/failure.h"
#include "cli/job_gres.h"
#include "cli/job_query.h"
#include "cli/job_record.h"
#include "fuzz.h"

using namespace softmig;

namespace {

void read(uint8_t which, std::string_view text) {
  std::vector<cli::GresItem> items;
  switch (which % 8) {
    case 0: {
      fuzz::must(cli::expand_hosts(text, 100).size() <= 100);
      break;
    }
    case 1:
      cli::parse_gres(text);
      break;
    case 2: {
      const auto status = cli::find_gres(text, 122, "n1", &items);
      fuzz::must(status == cli::RecordStatus::kOk || items.empty());
      break;
    }
    case 3:
      cli::single_name(text, 122);
      break;
    case 4:
      for (const cli::JobRequest& request : cli::parse_requests(text)) {
        fuzz::must(request.job_id != 0);
        cli::items_of_request(request, "0");
      }
      break;
    case 5:
      for (const int number : cli::parse_slurmd_gres(text)) fuzz::must(number >= 0);
      break;
    case 6:
      for (const cli::JobRequest& request : cli::parse_requests_text(text))
        cli::items_of_request(request, "0,1");
      break;
    default:
      // A record that was read is written and read again as the same.
      if (const auto record = cli::parse_record(std::string(text))) {
        const auto again = cli::parse_record(cli::to_json(*record).dump());
        fuzz::must(again.has_value() && *again == *record);
      }
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size == 0) return 0;
  try {
    read(data[0], fuzz::text_of(data + 1, size - 1));
  } catch (const cli::Failure&) {
  }
  return 0;
}
