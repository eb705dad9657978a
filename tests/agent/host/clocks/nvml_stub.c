/* What the helper calls of NVML, for one GPU. */
#include <string.h>

static unsigned int locked_mhz;
static int device, users;

int nvmlInit_v2(void)
{
    users++;
    return 0;
}

/* The library counts its users, and without persistence mode a lock ends with the last client. */
int nvmlShutdown(void)
{
    if (users == 0)
        return 1;
    if (--users == 0)
        locked_mhz = 0;
    return 0;
}

int nvmlDeviceGetHandleByUUID(const char *uuid, void **handle)
{
    *handle = &device;
    return strncmp(uuid, "GPU-", 4) ? 2 : 0;
}

int nvmlDeviceSetGpuLockedClocks(void *handle, unsigned int min_mhz, unsigned int max_mhz)
{
    if (handle != &device || min_mhz > max_mhz)
        return 2;
    if (min_mhz == 1)
        return 4;
    locked_mhz = max_mhz;
    return 0;
}

int nvmlDeviceResetGpuLockedClocks(void *handle)
{
    locked_mhz = 0;
    return handle == &device ? 0 : 2;
}

int nvmlDeviceGetClockInfo(void *handle, int type, unsigned int *mhz)
{
    *mhz = locked_mhz ? locked_mhz : 210;
    return handle == &device && type == 1 ? 0 : 2;
}

int nvmlDeviceGetMaxClockInfo(void *handle, int type, unsigned int *mhz)
{
    *mhz = 2100;
    return handle == &device && type == 1 ? 0 : 2;
}

const char *nvmlErrorString(int code)
{
    return code == 4 ? "Insufficient Permissions" : "Invalid Argument";
}
