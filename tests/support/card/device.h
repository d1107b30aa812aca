// What PyTorch wants to know of a device: which is current, its streams (all is done when a call returns), its random numbers.
#pragma once

#include <ATen/CPUGeneratorImpl.h>
#include <ATen/detail/PrivateUse1HooksInterface.h>
#include <c10/core/DeviceGuard.h>
#include <c10/core/impl/DeviceGuardImplInterface.h>

#include <algorithm>
#include <cstring>
#include <vector>

#include "memory.h"

namespace card {

/// The CPU's random numbers from another seed: as on a real card, nobody gets the CPU's own.
class Generator final : public c10::GeneratorImpl {
  static constexpr uint64_t SALT = 0x9e3779b97f4a7c15;

 public:
  at::Generator cpu;

  Generator(c10::DeviceIndex index, at::Generator source)
      : GeneratorImpl(place_of(index), c10::DispatchKeySet(c10::DispatchKey::PrivateUse1)), cpu(std::move(source)) {}

  void set_current_seed(uint64_t seed) override { cpu.set_current_seed(seed ^ SALT); }
  uint64_t current_seed() const override { return cpu.current_seed() ^ SALT; }
  uint64_t seed() override { return cpu.seed() ^ SALT; }
  void set_offset(uint64_t) override {}
  uint64_t get_offset() const override { return 0; }
  void set_state(const c10::TensorImpl& state) override { cpu.unsafeGetGeneratorImpl()->set_state(state); }
  c10::intrusive_ptr<c10::TensorImpl> get_state() const override { return cpu.unsafeGetGeneratorImpl()->get_state(); }

  static at::Generator make(c10::DeviceIndex index) {
    auto made = at::make_generator<Generator>(index, at::detail::createCPUGenerator());
    made.set_current_seed(c10::default_rng_seed_val);
    return made;
  }

  static const at::Generator& usual(c10::DeviceIndex index) {
    static const auto all = [] {
      std::vector<at::Generator> made;
      for (int i = 0; i < MOST_CARDS; ++i) made.push_back(make(static_cast<c10::DeviceIndex>(i)));
      return made;
    }();
    return all[place_of(index).index()];
  }

 private:
  Generator* clone_impl() const override { return new Generator(device().index(), cpu.clone()); }
};

inline c10::DeviceIndex exchange(c10::DeviceIndex index) {
  TORCH_CHECK(index < count, "There is no npu:", static_cast<int>(index), "; there are ", count.load(), " cards.");
  const auto before = current;
  if (index >= 0) current = index;
  return before;
}

struct Guard final : c10::impl::DeviceGuardImplInterface {
  static c10::Stream only(c10::Device device) { return c10::Stream(c10::Stream::DEFAULT, device); }

  c10::DeviceType type() const override { return TYPE; }
  c10::Device exchangeDevice(c10::Device to) const override { return place_of(exchange(to.index())); }
  c10::Device getDevice() const override { return place_of(current); }
  void setDevice(c10::Device to) const override { exchange(to.index()); }
  void uncheckedSetDevice(c10::Device to) const noexcept override { current = to.index(); }
  c10::DeviceIndex deviceCount() const noexcept override { return static_cast<c10::DeviceIndex>(count.load()); }

  c10::Stream getStream(c10::Device on) const override { return only(on); }
  c10::Stream getDefaultStream(c10::Device on) const override { return only(on); }
  c10::Stream getStreamFromGlobalPool(c10::Device on, bool) const override { return only(on); }
  c10::Stream getNewStream(c10::Device on, int) const override { return only(on); }
  c10::Stream exchangeStream(c10::Stream stream) const override { return only(stream.device()); }
  void record(void**, const c10::Stream&, const c10::DeviceIndex, const c10::EventFlag) const override {}
  void block(void*, const c10::Stream&) const override {}
  bool queryEvent(void*) const override { return true; }
  bool queryStream(const c10::Stream&) const override { return true; }
  void synchronizeStream(const c10::Stream&) const override {}
  void synchronizeEvent(void*) const override {}
  void synchronizeDevice(const c10::DeviceIndex) const override {}
  double elapsedTime(void*, void*, const c10::DeviceIndex) const override { return 0; }
};

struct Hooks final : at::PrivateUse1HooksInterface {
  bool isBuilt() const override { return true; }
  bool isAvailable() const override { return true; }
  bool hasPrimaryContext(c10::DeviceIndex) const override { return true; }
  c10::DeviceIndex deviceCount() const override { return static_cast<c10::DeviceIndex>(count.load()); }
  c10::DeviceIndex getCurrentDevice() const override { return current; }
  void setCurrentDevice(c10::DeviceIndex index) const override { exchange(index); }
  c10::DeviceIndex exchangeDevice(c10::DeviceIndex index) const override { return exchange(index); }
  c10::DeviceIndex maybeExchangeDevice(c10::DeviceIndex index) const override { return exchange(index); }
  at::Allocator* getPinnedMemoryAllocator() const override { return c10::GetAllocator(c10::kCPU); }
  c10::Device getDeviceFromPtr(void*) const override { return place_of(current); }
  const at::Generator& getDefaultGenerator(c10::DeviceIndex index) const override { return Generator::usual(index); }
  at::Generator getNewGenerator(c10::DeviceIndex index) const override { return Generator::make(place_of(index).index()); }
  void resizePrivateUse1Bytes(const c10::Storage& storage, size_t bytes) const override {
    const c10::DeviceGuard guard(storage.device());
    auto* memory = storage.unsafeGetStorageImpl();
    auto data = allocator.allocate(bytes);  // keeps the device, also when nothing is left
    if (const size_t kept = std::min(bytes, memory->nbytes())) std::memcpy(data.get(), memory->data(), kept);
    memory->set_data_ptr_noswap(std::move(data));
    memory->set_nbytes(bytes);
  }
};

}  // namespace card
