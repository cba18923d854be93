// The emulator without kernels, which are loaded as PTX by cuda_emulator_launch_ptx.
