// A pretend graphics card for PyTorch: the device "privateuseone", which the Python side calls "npu". See __init__.py.
#include <ATen/EmptyTensor.h>
#include <ATen/autocast_mode.h>
#include <ATen/ops/_reshape_alias_native.h>
#include <ATen/ops/as_strided_native.h>
#include <ATen/ops/resize_native.h>
#include <ATen/ops/set_native.h>
#include <ATen/ops/view_native.h>

#include "operators.h"

namespace card {
namespace {

REGISTER_ALLOCATOR(TYPE, &allocator)
C10_REGISTER_GUARD_IMPL(PrivateUse1, Guard)
const bool hooked = (at::RegisterPrivateUse1HooksInterface(new Hooks), true);
constexpr c10::DispatchKeySet KEYS(c10::DispatchKey::PrivateUse1);

// ---------------------------------------------------------------- operators

void by_the_cpu(const c10::OperatorHandle& called, Stack* stack) { Call(called.schema(), *stack).run(called); }

/// PyTorch sends a device of its own kind here; the arguments are those of `convolution`.
void convolution(const c10::OperatorHandle& called, Stack* stack) {
  static const auto whole = c10::Dispatcher::singleton().findSchemaOrThrow("aten::convolution", "");
  Call(called.schema(), *stack).run(whole);
}

using Type = std::optional<at::ScalarType>;
using Layout = std::optional<at::Layout>;
using Place = std::optional<c10::Device>;
using Flag = std::optional<bool>;

Tensor empty(at::IntArrayRef size, Type type, Layout, Place on, Flag, std::optional<at::MemoryFormat> format) {
  const c10::DeviceGuard guard(place_of(on ? on->index() : -1));
  return at::detail::empty_generic(size, &allocator, KEYS, c10::dtype_or_default(type), format);
}

Tensor empty_strided(at::IntArrayRef size, at::IntArrayRef stride, Type type, Layout, Place on, Flag) {
  const c10::DeviceGuard guard(place_of(on ? on->index() : -1));
  return at::detail::empty_strided_generic(size, stride, &allocator, KEYS, c10::dtype_or_default(type));
}

Tensor copy_from(const Tensor& source, const Tensor& target, bool non_blocking) {
  Views views;
  const auto near = [&](const Tensor& tensor) { return on_card(tensor) ? views.cpu(tensor) : tensor; };
  const at::AutoDispatchBelowADInplaceOrView below;
  near(target).copy_(near(source), non_blocking);
  return target;
}

Tensor copy_from_and_resize(const Tensor& source, const Tensor& target) {
  return copy_from(source, target.resize_(source.sizes()), false);
}

Tensor& set_storage(Tensor& self, Storage source) {
  if (source.device() != self.device()) refuse_two_devices(self.device(), source.device());
  return at::native::set_(self, std::move(source));
}

Tensor& set_part(Tensor& self, Storage source, int64_t offset, at::IntArrayRef size, at::IntArrayRef stride) {
  if (source.device() != self.device()) refuse_two_devices(self.device(), source.device());
  return at::native::set_storage_cpu_(self, std::move(source), offset, size, stride);
}

Tensor& set_nothing(Tensor& self) {
  const c10::DeviceGuard guard(self.device());
  return at::native::set_(self, storage(allocator.allocate(0), 0));
}

/// Whether `tensor.data = other` may change the device, as it may between the CPU and CUDA.
bool may_replace(const Tensor& one, const Tensor& other) {
  const auto plain = [](const Tensor& t) { return t.layout() == c10::kStrided && (on_card(t) || t.is_cpu()); };
  return plain(one) && plain(other);
}

TORCH_LIBRARY_IMPL(_, PrivateUse1, m) { m.fallback(torch::CppFunction::makeFromBoxedFunction<&by_the_cpu>()); }

TORCH_LIBRARY_IMPL(aten, PrivateUse1, m) {
  m.impl("empty.memory_format", empty);
  m.impl("empty_strided", empty_strided);
  m.impl("_copy_from", copy_from);
  m.impl("_copy_from_and_resize", copy_from_and_resize);
  m.impl("set_", set_nothing);
  m.impl("set_.source_Tensor", at::native::set_tensor_);
  m.impl("set_.source_Storage", set_storage);
  m.impl("set_.source_Storage_storage_offset", set_part);
  m.impl("as_strided", at::native::as_strided_tensorimpl);
  m.impl("view", at::native::view);
  m.impl("_reshape_alias", at::native::_reshape_alias);
  m.impl("resize_", at::native::resize_);
  m.impl("_has_compatible_shallow_copy_type", may_replace);
  m.impl("convolution_overrideable", torch::CppFunction::makeFromBoxedFunction<&convolution>());
  // PyTorch would take these apart: the CPU's sum would be another, and the card would hold more than a fused kernel does
  for (const char* name : {"scaled_dot_product_attention", "linear", "matmul", "native_layer_norm", "native_group_norm"})
    m.impl(name, torch::CppFunction::makeFromBoxedFunction<&by_the_cpu>());
}

// a copy resolves conjugates and signs itself, as `copy_` does; resolving them before would copy again, without end
TORCH_LIBRARY_IMPL(aten, Conjugate, m) { m.impl("_copy_from", torch::CppFunction::makeFallthrough()); }
TORCH_LIBRARY_IMPL(aten, Negative, m) { m.impl("_copy_from", torch::CppFunction::makeFallthrough()); }

TORCH_LIBRARY_IMPL(_, AutocastPrivateUse1, m) { m.fallback(torch::CppFunction::makeFallthrough()); }

#define LOWER(...) KERNEL_PRIVATEUSEONE(__VA_ARGS__, lower_precision_fp)
#define WHOLE(...) KERNEL_PRIVATEUSEONE(__VA_ARGS__, fp32)
TORCH_LIBRARY_IMPL(aten, AutocastPrivateUse1, m) {
  AT_FORALL_LOWER_PRECISION_FP(LOWER)
  AT_FORALL_FP32(WHOLE)
}

// ---------------------------------------------------------------- what Python asks

Ledger& ledger(int64_t index) {
  TORCH_CHECK(index < count, "There is no npu:", index, "; there are ", count.load(), " cards.");
  return ledgers[place_of(static_cast<c10::DeviceIndex>(index)).index()];
}

at::Generator usual(int64_t index) { return Generator::usual(static_cast<c10::DeviceIndex>(index)); }

void set_count(int64_t cards) {
  TORCH_CHECK(cards > 0 && cards <= MOST_CARDS, "There can be 1 to ", MOST_CARDS, " cards, not ", cards, ".");
  count = static_cast<int>(cards);
}

/// address: of a C function (card, bytes), which must outlive the process; Python makes it by ctypes.
void set_reclaimer(int64_t address) {
  for (auto& each : ledgers) each.reclaimer = reinterpret_cast<void (*)(int64_t, int64_t)>(address);
}

TORCH_LIBRARY(reelwire_card, m) {
  m.def("count() -> int", [] { return static_cast<int64_t>(count); });
  m.def("set_count(int cards) -> ()", set_count);
  m.def("current() -> int", [] { return static_cast<int64_t>(current); });
  m.def("exchange(int index) -> int", [](int64_t i) { return static_cast<int64_t>(exchange(static_cast<c10::DeviceIndex>(i))); });
  m.def("allocated(int index) -> int", [](int64_t i) { return ledger(i).allocated.load(); });
  m.def("peak(int index) -> int", [](int64_t i) { return ledger(i).peak.load(); });
  m.def("reset_peak(int index) -> ()", [](int64_t i) { ledger(i).peak = ledger(i).allocated.load(); });
  m.def("cap(int index) -> int", [](int64_t i) { return ledger(i).cap.load(); });
  m.def("set_cap(int index, int bytes) -> ()", [](int64_t i, int64_t bytes) { ledger(i).cap = bytes; });
  m.def("allocations(int index) -> int", [](int64_t i) { return ledger(i).allocations.load(); });
  m.def("refusals(int index) -> int", [](int64_t i) { return ledger(i).refusals.load(); });
  m.def("fail_after(int index, int allocations) -> ()", [](int64_t i, int64_t n) { ledger(i).countdown = n; });
  m.def("set_reclaimer(int address) -> ()", set_reclaimer);
  m.def("seed(int index, int seed) -> ()", [](int64_t i, int64_t seed) { usual(i).set_current_seed(seed); });
  m.def("rng_state(int index) -> Tensor", [](int64_t i) { return usual(i).get_state(); });
  m.def("set_rng_state(int index, Tensor state) -> ()", [](int64_t i, const Tensor& state) { usual(i).set_state(state); });
}

}  // namespace
}  // namespace card
