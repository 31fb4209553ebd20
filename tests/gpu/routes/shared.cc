// Memory shared between two processes of one slice: it is charged once, and as long as anybody
// holds it. The exporter takes pieces until it is refused, the importer opens every one of them;
// then the exporter lets go (nothing may become free), then the importer does (everything must).
#include <unistd.h>

#include "common/peer.h"
#include "routes/route.h"

namespace softmig::gpu_test {
namespace {

enum class Command : int { kImport, kClose, kLeave };

// What differs between cuMemExportToShareableHandle and cuIpcGetMemHandle.
class Exporter {
 public:
  explicit Exporter(const Session& session) : session_(session) {}
  virtual ~Exporter() = default;
  virtual CUresult take(uint64_t bytes) = 0;
  virtual CUresult send_last(Channel& to) = 0;
  virtual CUresult release_all() = 0;

 protected:
  const Session& session_;
};

class Importer {
 public:
  explicit Importer(const Session& session) : session_(session) {}
  virtual ~Importer() = default;
  virtual CUresult receive(Channel& from) = 0;
  virtual CUresult close_all() = 0;

 protected:
  const Session& session_;
};

class VmmExporter : public Exporter {
 public:
  using Exporter::Exporter;
  CUresult take(uint64_t bytes) override {
    CUmemAllocationProp prop{};
    prop.type = CU_MEM_ALLOCATION_TYPE_PINNED;
    prop.requestedHandleTypes = CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR;
    prop.location = {CU_MEM_LOCATION_TYPE_DEVICE, session_.device};
    CUmemGenericAllocationHandle handle = 0;
    const CUresult code = session_.driver.cuMemCreate(&handle, bytes, &prop, 0);
    if (code == CUDA_SUCCESS) held_.push_back({handle, bytes});
    return code;
  }
  CUresult send_last(Channel& to) override {
    int fd = -1;
    CUresult code = session_.driver.cuMemExportToShareableHandle(
        &fd, held_.back().handle, CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR, 0);
    if (code != CUDA_SUCCESS) return code;
    to.put(Command::kImport);
    to.put(held_.back().bytes);
    to.send_fd(fd);
    close(fd);
    return to.get(&code) ? code : CUDA_ERROR_UNKNOWN;
  }
  CUresult release_all() override {
    CUresult first = CUDA_SUCCESS;
    for (const Piece& piece : held_) {
      if (CUresult code = session_.driver.cuMemRelease(piece.handle); first == CUDA_SUCCESS)
        first = code;
    }
    held_.clear();
    return first;
  }

 private:
  struct Piece {
    CUmemGenericAllocationHandle handle;
    uint64_t bytes;
  };
  std::vector<Piece> held_;
};

class VmmImporter : public Importer {
 public:
  using Importer::Importer;
  CUresult receive(Channel& from) override {
    Piece piece{};
    if (!from.get(&piece.bytes)) return CUDA_ERROR_UNKNOWN;
    const int fd = from.receive_fd();
    CUmemGenericAllocationHandle handle = 0;
    const Driver& d = session_.driver;
    CUresult code = d.cuMemImportFromShareableHandle(
        &handle, reinterpret_cast<void*>(static_cast<intptr_t>(fd)),
        CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR);
    close(fd);
    if (code == CUDA_SUCCESS) code = d.cuMemAddressReserve(&piece.address, piece.bytes, 0, 0, 0);
    if (code == CUDA_SUCCESS) code = d.cuMemMap(piece.address, piece.bytes, 0, handle, 0);
    if (code == CUDA_SUCCESS) code = d.cuMemRelease(handle);
    if (code == CUDA_SUCCESS) held_.push_back(piece);
    return code;
  }
  CUresult close_all() override {
    CUresult first = CUDA_SUCCESS;
    for (const Piece& piece : held_) {
      if (CUresult code = session_.driver.cuMemUnmap(piece.address, piece.bytes);
          first == CUDA_SUCCESS)
        first = code;
      session_.driver.cuMemAddressFree(piece.address, piece.bytes);
    }
    held_.clear();
    return first;
  }

 private:
  struct Piece {
    CUdeviceptr address;
    uint64_t bytes;
  };
  std::vector<Piece> held_;
};

class IpcExporter : public Exporter {
 public:
  using Exporter::Exporter;
  CUresult take(uint64_t bytes) override {
    CUdeviceptr address = 0;
    const CUresult code = session_.driver.cuMemAlloc_v2(&address, bytes);
    if (code == CUDA_SUCCESS) held_.push_back(address);
    return code;
  }
  CUresult send_last(Channel& to) override {
    CUipcMemHandle handle{};
    CUresult code = session_.driver.cuIpcGetMemHandle(&handle, held_.back());
    if (code != CUDA_SUCCESS) return code;
    to.put(Command::kImport);
    to.put(handle);
    return to.get(&code) ? code : CUDA_ERROR_UNKNOWN;
  }
  CUresult release_all() override {
    CUresult first = CUDA_SUCCESS;
    for (CUdeviceptr address : held_) {
      if (CUresult code = session_.driver.cuMemFree_v2(address); first == CUDA_SUCCESS)
        first = code;
    }
    held_.clear();
    return first;
  }

 private:
  std::vector<CUdeviceptr> held_;
};

class IpcImporter : public Importer {
 public:
  using Importer::Importer;
  CUresult receive(Channel& from) override {
    CUipcMemHandle handle{};
    if (!from.get(&handle)) return CUDA_ERROR_UNKNOWN;
    CUdeviceptr address = 0;
    const CUresult code =
        session_.driver.cuIpcOpenMemHandle_v2(&address, handle, CU_IPC_MEM_LAZY_ENABLE_PEER_ACCESS);
    if (code == CUDA_SUCCESS) held_.push_back(address);
    return code;
  }
  CUresult close_all() override {
    CUresult first = CUDA_SUCCESS;
    for (CUdeviceptr address : held_) {
      if (CUresult code = session_.driver.cuIpcCloseMemHandle(address); first == CUDA_SUCCESS)
        first = code;
    }
    held_.clear();
    return first;
  }

 private:
  std::vector<CUdeviceptr> held_;
};

template <class T>
int serve(const Options& options, const Lookup& lookup, Channel& channel) {
  Session session;
  std::string step;
  channel.put(session.open(lookup, options.device, &step));
  T importer(session);
  Command command{};
  while (channel.get(&command)) {
    if (command == Command::kLeave) return 0;
    channel.put(command == Command::kImport ? importer.receive(channel) : importer.close_all());
  }
  return 1;
}

// Takes and shares pieces until one is refused. `import` gets the first error of the importer.
Filled share(Exporter& exporter, Channel& channel, uint64_t bytes, uint64_t cap, CUresult* import) {
  Filled filled;
  while (filled.last == CUDA_SUCCESS && *import == CUDA_SUCCESS) {
    if (filled.granted >= cap) {
      filled.capped = true;
      break;
    }
    filled.last = exporter.take(bytes);
    if (filled.last != CUDA_SUCCESS) break;
    filled.granted += bytes;
    ++filled.pieces;
    *import = exporter.send_last(channel);
  }
  return filled;
}

Filled take_again(Exporter& exporter, uint64_t bytes, uint64_t cap) {
  Filled filled;
  while (filled.granted < cap && (filled.last = exporter.take(bytes)) == CUDA_SUCCESS) {
    filled.granted += bytes;
    ++filled.pieces;
  }
  return filled;
}

template <class E, class I>
int run(const Options& options, bool importer_exits) {
  Lookup lookup;
  if (!parse_lookup(options.lookup, &lookup)) return 2;
  Child child([&](Channel& channel) { return serve<I>(options, lookup, channel); });
  Session session;
  std::string step;
  CUresult code = session.open(lookup, options.device, &step);
  CUresult theirs = CUDA_ERROR_UNKNOWN;
  child.channel().get(&theirs);
  if (code == CUDA_SUCCESS) code = theirs;
  const uint64_t bytes = parse_size(options.size);
  Line line("route");
  line.add("route", options.route).add("lookup", options.lookup).add("size", options.size);
  if (code != CUDA_SUCCESS || bytes == 0) {
    line.add("ok", false).add("text", "no context: " + step).add("result", code).print();
    return 1;
  }
  E exporter(session);
  CUresult import = CUDA_SUCCESS;
  const Filled first = share(exporter, child.channel(), bytes, options.cap, &import);
  sleep_ms(options.hold_ms);
  const CUresult released = exporter.release_all();
  const Filled while_held = take_again(exporter, bytes, options.cap);
  exporter.release_all();
  CUresult closed = CUDA_SUCCESS;
  if (!importer_exits) {
    child.channel().put(Command::kClose);
    child.channel().get(&closed);
  }
  child.channel().put(Command::kLeave);
  const int child_status = importer_exits ? child.wait() : 0;
  const Filled after = take_again(exporter, bytes, options.cap);
  exporter.release_all();
  const bool ok = first.last == CUDA_ERROR_OUT_OF_MEMORY && import == CUDA_SUCCESS &&
                  released == CUDA_SUCCESS && closed == CUDA_SUCCESS && child_status == 0 &&
                  while_held.pieces == 0 && after.pieces >= first.pieces;
  line.add("granted", first.granted).add("pieces", first.pieces).add("result", first.last);
  line.add("result_name", error_name(session.driver, first.last)).add("capped", first.capped);
  line.add("import_result", import).add("granted_while_imported", while_held.granted);
  line.add("granted_after", after.granted)
      .add("total", session.total_bytes())
      .add("ok", ok)
      .print();
  return ok ? 0 : 1;
}

}  // namespace

int run_shared_route(const Options& options) {
  if (options.route == "share") return run<VmmExporter, VmmImporter>(options, false);
  if (options.route == "share_exit") return run<VmmExporter, VmmImporter>(options, true);
  if (options.route == "ipc") return run<IpcExporter, IpcImporter>(options, false);
  if (options.route == "ipc_exit") return run<IpcExporter, IpcImporter>(options, true);
  return -1;
}

}  // namespace softmig::gpu_test
