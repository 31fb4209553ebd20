// Device memory that several processes can hold: exports, IPC, memory from other interfaces. All
// functions need the state's Guard.
#pragma once

#include <cstdint>
#include <string>

#include "state/layout.h"

namespace softmig::sim {

class Process;
class State;

// Who an object is, in handles that travel between processes.
struct ObjectId {
  uint32_t index = 0;
  uint32_t nonce = 0;
  explicit operator bool() const { return nonce != 0; }
};

// Where the content of an object is kept, for all its holders; the file may not exist.
std::string content_path(const State& state, ObjectId id);

// The live object, or null.
ObjectRow* find_object(State* state, ObjectId id);

// Makes an object, held once by `process`. Memory that the process has already taken becomes the
// object's (`taken`), otherwise it is taken from the device. No id: no memory, or no free row.
ObjectId make_object(Process* process, ObjectKind kind, int device, uint64_t bytes, bool taken);

// Memory of another interface, known by `key`; made at the first call, held once more by each.
ObjectId hold_external(Process* process, int device, uint64_t bytes, uint64_t key);

// One more, one fewer hold of this process. The last holder's release frees the memory, unless an
// exported descriptor is still open somewhere.
bool hold_object(Process* process, ObjectId id);
void release_object(Process* process, ObjectId id);

// A new descriptor that stands for the object and keeps it alive; -1 if there can be none.
int export_object(Process* process, ObjectId id);

// Which object a descriptor stands for; no id if it is not one of ours.
ObjectId object_of_descriptor(State* state, int fd);

// Frees the objects that neither a process nor a descriptor holds. `fd` as for is_alive.
bool drop_unheld_objects(State* state, int fd);

// Adds each object's bytes to its device's figure.
void add_object_bytes(const State& state, uint64_t (&used)[kMaxDevices]);

// Bytes of objects on `device` that the process list shows for the process of row `index`.
uint64_t listed_object_bytes(const State& state, uint32_t index, int device);

}  // namespace softmig::sim
