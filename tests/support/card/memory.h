// The memory of the pretend cards: blocks of RAM that are counted and capped, as many bytes as CUDA's allocator would count.
#pragma once

#include <c10/core/Allocator.h>
#include <c10/core/Storage.h>
#include <c10/util/Exception.h>

#include <array>
#include <atomic>
#include <cstdlib>

namespace card {

constexpr auto TYPE = c10::DeviceType::PrivateUse1;
constexpr int64_t ROUNDING = 512;  // bytes; CUDACachingAllocator.cpp, kMinBlockSize
constexpr size_t ALIGNMENT = 64;   // c10/core/alignment.h, gAlignment
constexpr int MOST_CARDS = 8;

inline std::atomic<int> count{1};
inline thread_local c10::DeviceIndex current = 0;

inline c10::Device place_of(c10::DeviceIndex index) { return {TYPE, index < 0 ? current : index}; }

/// What one card has given out. A cap below what is allocated already refuses all that is new.
class Ledger {
 public:
  std::atomic<int64_t> allocated{0}, peak{0}, cap{INT64_MAX}, allocations{0}, refusals{0};
  std::atomic<int64_t> countdown{-1};  // allocations until the one that fails because a test asked for it; -1: none
  std::atomic<void (*)(int64_t, int64_t)> reclaimer{nullptr};  // (card, bytes): may free that many before an allocation fails

  /// Counts a block, or throws OutOfMemoryError and counts nothing.
  void take(size_t bytes, c10::DeviceIndex index) {
    const int64_t size = rounded(bytes);
    if (size == 0) return;
    const bool ordered = countdown >= 0 && countdown-- == 0;
    int64_t now = allocated += size;
    if (now > cap && reclaimer) {
      allocated -= size;
      reclaimer.load()(index, now - cap);
      now = allocated += size;
    }
    if (now > cap || ordered) refuse(size, now - size, index);
    ++allocations;
    int64_t highest = peak;
    while (highest < now && !peak.compare_exchange_weak(highest, now)) {}
  }

  void give_back(size_t bytes) { allocated -= rounded(bytes); }

 private:
  static int64_t rounded(size_t bytes) { return (static_cast<int64_t>(bytes) + ROUNDING - 1) / ROUNDING * ROUNDING; }

  static std::string mebibytes(int64_t bytes) { return c10::str(static_cast<double>(bytes) / (1 << 20), " MiB"); }

  void refuse(int64_t size, int64_t before, c10::DeviceIndex index) {
    allocated -= size;
    ++refusals;
    TORCH_CHECK_WITH(OutOfMemoryError, false, "NPU out of memory. Tried to allocate ", mebibytes(size), ". GPU ",
                     static_cast<int>(index), " has a total capacity of ", mebibytes(cap), " of which ",
                     mebibytes(cap - before), " is free. Of the allocated memory ", mebibytes(before),
                     " is allocated by PyTorch.");
  }
};

inline std::array<Ledger, MOST_CARDS> ledgers;

/// One block of a card's memory, which knows how to free itself.
struct Block {
  void* data;
  size_t bytes;
  c10::DeviceIndex index;
  c10::DataPtr origin;  // where a CPU kernel allocated it; empty for a block of our own

  static void free(void* self) {
    auto* block = static_cast<Block*>(self);
    ledgers[block->index].give_back(block->bytes);
    if (!block->origin) std::free(block->data);
    delete block;
  }

  static c10::DataPtr pointer(void* data, size_t bytes, c10::DeviceIndex index, c10::DataPtr origin) {
    return {data, new Block{data, bytes, index, std::move(origin)}, &Block::free, place_of(index)};
  }
};

struct Allocator final : c10::Allocator {
  c10::DataPtr allocate(size_t bytes) override {
    const auto index = current;
    ledgers[index].take(bytes, index);
    void* data = bytes ? std::aligned_alloc(ALIGNMENT, (bytes + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT) : nullptr;
    if (bytes && !data) ledgers[index].give_back(bytes);
    TORCH_CHECK(data || !bytes, "The machine under the pretend card is out of memory (", bytes, " bytes).");
    return Block::pointer(data, bytes, index, {});
  }
  c10::DeleterFnPtr raw_deleter() const override { return &Block::free; }
  void copy_data(void* to, const void* from, size_t bytes) const override { default_copy_data(to, from, bytes); }
};

inline Allocator allocator;

/// Memory that a CPU kernel allocated becomes a card's.
inline c10::DataPtr adopt(c10::DataPtr&& origin, size_t bytes, c10::DeviceIndex index) {
  ledgers[index].take(bytes, index);
  void* data = origin.mutable_get();
  return Block::pointer(data, bytes, index, std::move(origin));
}

inline c10::Storage storage(c10::DataPtr&& data, size_t bytes) {
  return c10::make_intrusive<c10::StorageImpl>(c10::StorageImpl::use_byte_size_t(), bytes, std::move(data), &allocator, true);
}

}  // namespace card
