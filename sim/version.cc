// The one thing that differs between the driver variants beside what they export.
extern "C" {
extern const int softmig_sim_driver_version;
const int softmig_sim_driver_version = SIM_DRIVER_VERSION;
}
