"""Lines of tegrastats from R28 to R39, with their expected samples.

Some are a root user's lines, some another user's.
"""

from datetime import datetime

from efficientquant_agent.samplers.tegrastats import (
    Core,
    Engine,
    FreeBlocks,
    Iram,
    Memory,
    Rail,
    Sample,
    Swap,
)

KB, MB = 1 << 10, 1 << 20


def sample(used_mb, total_mb, **fields):
    """Return the sample of a line with RAM and these other fields."""
    ram_only = Sample(None, Memory(used_mb * MB, total_mb * MB), None, None, None, [], None, None, {}, {}, {})
    return ram_only._replace(**fields)


def swap(used_mb, total_mb, cached_mb):
    return Swap(used_mb * MB, total_mb * MB, cached_mb * MB)


def cores(*load_and_mhz):
    """Return cores from (percent, MHz), None for a core that is off."""
    return [None if core is None else Core(core[0] / 100, core[1] * 1e6) for core in load_and_mhz]


def clock(*mhz):
    """Return an engine with clocks and no load."""
    return Engine(None, [megahertz * 1e6 for megahertz in mhz])


LINES = {
    "R28 TX1, root: lower-case cores at one clock, EMC and GR3D without _FREQ": (
        "RAM 3211/3983MB (lfb 48x4MB) SWAP 512/8192MB (cached 295MB) cpu [17%,13%,29%,5%]@408 EMC 1%@408 APE 25 "
        "GR3D 3%@76",
        sample(
            3211,
            3983,
            lfb=FreeBlocks(48, 4 * MB),
            swap=swap(512, 8192, 295),
            cpus=cores((17, 408), (13, 408), (29, 408), (5, 408)),
            emc=Engine(0.01, [408e6]),
            gr3d=Engine(0.03, [76e6]),
            engines={"APE": clock(25)},
        ),
    ),
    "R32 Nano, root": (
        "RAM 1931/3964MB (lfb 7x2MB) SWAP 191/1982MB (cached 6MB) IRAM 0/252kB(lfb 252kB) CPU [5%@1224,4%@1224,"
        "3%@1224,6%@1224] EMC_FREQ 2%@1600 GR3D_FREQ 41%@76 APE 25 PLL@37C CPU@40C PMIC@50C GPU@40.5C AO@45C "
        "thermal@40C POM_5V_IN 1750/1628 POM_5V_GPU 0/0 POM_5V_CPU 366/406",
        sample(
            1931,
            3964,
            lfb=FreeBlocks(7, 2 * MB),
            swap=swap(191, 1982, 6),
            iram=Iram(0, 252 * KB, 252 * KB),
            cpus=cores((5, 1224), (4, 1224), (3, 1224), (6, 1224)),
            emc=Engine(0.02, [1600e6]),
            gr3d=Engine(0.41, [76e6]),
            engines={"APE": clock(25)},
            temperatures_c={"PLL": 37.0, "CPU": 40.0, "GPU": 40.5, "AO": 45.0, "thermal": 40.0},
            rails={
                "POM_5V_IN": Rail(1.75, 1.628, None),
                "POM_5V_GPU": Rail(0.0, 0.0, None),
                "POM_5V_CPU": Rail(0.366, 0.406, None),
            },
        ),
    ),
    "R32 Nano in its 5 W mode, not root: two cores off, no clocks of EMC and GPU, no rails": (
        "RAM 871/3964MB (lfb 60x4MB) SWAP 714/51134MB (cached 60MB) CPU [5%@102,1%@102,off,off] EMC_FREQ 0% "
        "GR3D_FREQ 7% PLL@26.5C CPU@30.5C PMIC@50C GPU@30.5C AO@34.5C thermal@30.75C",
        sample(
            871,
            3964,
            lfb=FreeBlocks(60, 4 * MB),
            swap=swap(714, 51134, 60),
            cpus=cores((5, 102), (1, 102), None, None),
            emc=Engine(None, []),
            gr3d=Engine(0.07, []),
            temperatures_c={"PLL": 26.5, "CPU": 30.5, "GPU": 30.5, "AO": 34.5, "thermal": 30.75},
        ),
    ),
    "R32 Nano, memory in crumbs, no swap": (
        "RAM 3890/3964MB (lfb 13x256kB) CPU [98%@1479,97%@1479,100%@1479,99%@1479] EMC_FREQ 61% GR3D_FREQ 99% "
        "PLL@58C CPU@61C PMIC@100C GPU@60C AO@63.5C thermal@60.5C POM_5V_IN 9811/8120 POM_5V_GPU 3402/2800 "
        "POM_5V_CPU 3111/2950",
        sample(
            3890,
            3964,
            lfb=FreeBlocks(13, 256 * KB),
            cpus=cores((98, 1479), (97, 1479), (100, 1479), (99, 1479)),
            emc=Engine(0.61, []),
            gr3d=Engine(0.99, []),
            temperatures_c={"PLL": 58.0, "CPU": 61.0, "GPU": 60.0, "AO": 63.5, "thermal": 60.5},
            rails={
                "POM_5V_IN": Rail(9.811, 8.12, None),
                "POM_5V_GPU": Rail(3.402, 2.8, None),
                "POM_5V_CPU": Rail(3.111, 2.95, None),
            },
        ),
    ),
    "R32 AGX Xavier, root: GPU is a temperature and a rail, MTS is no engine": (
        "RAM 4091/31919MB (lfb 6179x4MB) SWAP 0/15959MB (cached 0MB) CPU [0%@1190,0%@1190,0%@1190,1%@1190,off,off,"
        "off,off] EMC_FREQ 3%@1600 GR3D_FREQ 12%@318 APE 150 MTS fg 0% bg 4% AO@42C GPU@43.5C Tdiode@44.75C "
        "PMIC@100C AUX@41.5C CPU@42C thermal@41.6C Tboard@41C GPU 463/310 CPU 310/432 SOC 931/953 CV 0/0 "
        "VDDRQ 466/488 SYS5V 1522/1559",
        sample(
            4091,
            31919,
            lfb=FreeBlocks(6179, 4 * MB),
            swap=swap(0, 15959, 0),
            cpus=cores((0, 1190), (0, 1190), (0, 1190), (1, 1190), None, None, None, None),
            emc=Engine(0.03, [1600e6]),
            gr3d=Engine(0.12, [318e6]),
            engines={"APE": clock(150)},
            temperatures_c={
                "AO": 42.0,
                "GPU": 43.5,
                "Tdiode": 44.75,
                "AUX": 41.5,
                "CPU": 42.0,
                "thermal": 41.6,
                "Tboard": 41.0,
            },
            rails={
                "GPU": Rail(0.463, 0.31, None),
                "CPU": Rail(0.31, 0.432, None),
                "SOC": Rail(0.931, 0.953, None),
                "CV": Rail(0.0, 0.0, None),
                "VDDRQ": Rail(0.466, 0.488, None),
                "SYS5V": Rail(1.522, 1.559, None),
            },
        ),
    ),
    "R32 Xavier NX, not root": (
        "RAM 2611/7771MB (lfb 1022x4MB) SWAP 0/3885MB (cached 0MB) CPU [11%@1420,4%@1420,off,off,off,off] EMC_FREQ 1% "
        "GR3D_FREQ 0% AO@36C GPU@36.5C PMIC@100C AUX@36C CPU@37.5C thermal@36.85C VDD_IN 3180/3066 "
        "VDD_CPU_GPU_CV 449/408 VDD_SOC 939/939",
        sample(
            2611,
            7771,
            lfb=FreeBlocks(1022, 4 * MB),
            swap=swap(0, 3885, 0),
            cpus=cores((11, 1420), (4, 1420), None, None, None, None),
            emc=Engine(0.01, []),
            gr3d=Engine(0.0, []),
            temperatures_c={"AO": 36.0, "GPU": 36.5, "AUX": 36.0, "CPU": 37.5, "thermal": 36.85},
            rails={
                "VDD_IN": Rail(3.18, 3.066, None),
                "VDD_CPU_GPU_CV": Rail(0.449, 0.408, None),
                "VDD_SOC": Rail(0.939, 0.939, None),
            },
        ),
    ),
    "R34 Orin AGX: units arrive, unconnected channels are NC": (
        "RAM 2950/30622MB (lfb 5840x4MB) SWAP 0/15311MB (cached 0MB) CPU [2%@729,0%@729,off,off] EMC_FREQ 0%@2133 "
        "GR3D_FREQ 0%@[0,0] VIC_FREQ 729 APE 174 CV0@-256C CPU@44.562C Tboard@32C SOC2@40.093C GPU@-256C tj@44.343C "
        "VDD_GPU_SOC 2340mW/2341mW VDD_CPU_CV 390mW/391mW VIN_SYS_5V0 4025mW/4026mW NC 0mW/0mW "
        "VDDQ_VDD2_1V8AO 301mW/302mW NC 0mW/0mW",
        sample(
            2950,
            30622,
            lfb=FreeBlocks(5840, 4 * MB),
            swap=swap(0, 15311, 0),
            cpus=cores((2, 729), (0, 729), None, None),
            emc=Engine(0.0, [2133e6]),
            gr3d=Engine(0.0, [0.0, 0.0]),
            engines={"VIC": clock(729), "APE": clock(174)},
            temperatures_c={"CPU": 44.562, "Tboard": 32.0, "SOC2": 40.093, "tj": 44.343},
            rails={
                "VDD_GPU_SOC": Rail(2.34, 2.341, None),
                "VDD_CPU_CV": Rail(0.39, 0.391, None),
                "VIN_SYS_5V0": Rail(4.025, 4.026, None),
                "VDDQ_VDD2_1V8AO": Rail(0.301, 0.302, None),
            },
        ),
    ),
    "R35 Xavier NX, root: the date arrives": (
        "07-09-2024 13:31:31 RAM 3168/6851MB (lfb 2x4MB) SWAP 161/3426MB (cached 2MB) CPU [23%@1397,17%@1192] "
        "EMC_FREQ 2%@204 GR3D_FREQ 0%@[114] VIC_FREQ 115 APE 150 AUX@45C CPU@46.5C thermal@45.6C AO@45C GPU@45.5C "
        "PMIC@50C VDD_IN 2763mW/2846mW VDD_CPU_GPU_CV 650mW/670mW VDD_SOC 650mW/711mW",
        sample(
            3168,
            6851,
            date=datetime(2024, 7, 9, 13, 31, 31),
            lfb=FreeBlocks(2, 4 * MB),
            swap=swap(161, 3426, 2),
            cpus=cores((23, 1397), (17, 1192)),
            emc=Engine(0.02, [204e6]),
            gr3d=Engine(0.0, [114e6]),
            engines={"VIC": clock(115), "APE": clock(150)},
            temperatures_c={"AUX": 45.0, "CPU": 46.5, "thermal": 45.6, "AO": 45.0, "GPU": 45.5},
            rails={
                "VDD_IN": Rail(2.763, 2.846, None),
                "VDD_CPU_GPU_CV": Rail(0.65, 0.67, None),
                "VDD_SOC": Rail(0.65, 0.711, None),
            },
        ),
    ),
    "R35 AGX Xavier, not root: no clock of EMC and GPU, no rails": (
        "08-01-2023 10:15:20 RAM 4083/31919MB (lfb 6179x4MB) SWAP 0/15959MB (cached 0MB) CPU [12%@2265,3%@2265,off,"
        "off] EMC_FREQ 0% GR3D_FREQ 63% AUX@41.5C CPU@42.5C thermal@42.05C PMIC@50C",
        sample(
            4083,
            31919,
            date=datetime(2023, 8, 1, 10, 15, 20),
            lfb=FreeBlocks(6179, 4 * MB),
            swap=swap(0, 15959, 0),
            cpus=cores((12, 2265), (3, 2265), None, None),
            emc=Engine(None, []),
            gr3d=Engine(0.63, []),
            temperatures_c={"AUX": 41.5, "CPU": 42.5, "thermal": 42.05},
        ),
    ),
    "R36 Orin Nano, not root: zones in lower case, spaces repeat": (
        "12-23-2024 22:54:11 RAM 3162/7620MB (lfb 4x2MB) SWAP 0/3810MB (cached 0MB)  CPU [1%@729,0%@729,off,off]  "
        "GR3D_FREQ 1%  cpu@62.843C  soc2@61.968C gpu@61.687C tj@62.843C   VDD_IN 3913mW/3922mW "
        "VDD_CPU_GPU_CV 598mW/599mW VDD_SOC 1238mW/1237mW",
        sample(
            3162,
            7620,
            date=datetime(2024, 12, 23, 22, 54, 11),
            lfb=FreeBlocks(4, 2 * MB),
            swap=swap(0, 3810, 0),
            cpus=cores((1, 729), (0, 729), None, None),
            gr3d=Engine(0.01, []),
            temperatures_c={"cpu": 62.843, "soc2": 61.968, "gpu": 61.687, "tj": 62.843},
            rails={
                "VDD_IN": Rail(3.913, 3.922, None),
                "VDD_CPU_GPU_CV": Rail(0.598, 0.599, None),
                "VDD_SOC": Rail(1.238, 1.237, None),
            },
        ),
    ),
    "R36 AGX Orin, root: engines off, at work, and one cluster of the GPU without power": (
        "05-09-2026 18:42:06 RAM 18207/62841MB (lfb 466x4MB) SWAP 86/31420MB (cached 0MB) CPU [14%@2188,5%@2112] "
        "EMC_FREQ 3%@2133 GR3D_FREQ 34%@[1300,0] NVENC 79%@166 NVDEC off NVJPG1 off VIC 36%@115 PVA0_FREQ off "
        "APE 174 cpu@52.562C soc1@49.656C VDD_GPU_SOC 2412mW/2411mW",
        sample(
            18207,
            62841,
            date=datetime(2026, 5, 9, 18, 42, 6),
            lfb=FreeBlocks(466, 4 * MB),
            swap=swap(86, 31420, 0),
            cpus=cores((14, 2188), (5, 2112)),
            emc=Engine(0.03, [2133e6]),
            gr3d=Engine(0.34, [1300e6, 0.0]),
            engines={
                "NVENC": Engine(0.79, [166e6]),
                "NVDEC": None,
                "NVJPG1": None,
                "VIC": Engine(0.36, [115e6]),
                "PVA0": None,
                "APE": clock(174),
            },
            temperatures_c={"cpu": 52.562, "soc1": 49.656},
            rails={"VDD_GPU_SOC": Rail(2.412, 2.411, None)},
        ),
    ),
    "R38 Thor, not root: no GPU and EMC at all, a rail below zero": (
        "05-14-2026 21:36:35 RAM 26063/125772MB (lfb 35x4MB) CPU [2%@972,0%@972] cpu@41.5C tj@41.5C "
        "VDD_GPU -392mW/-391mW VDD_CPU_SOC_MSS 3924mW/3835mW VIN 15004mW/15096mW",
        sample(
            26063,
            125772,
            date=datetime(2026, 5, 14, 21, 36, 35),
            lfb=FreeBlocks(35, 4 * MB),
            cpus=cores((2, 972), (0, 972)),
            temperatures_c={"cpu": 41.5, "tj": 41.5},
            rails={
                "VDD_GPU": Rail(-0.392, -0.391, None),
                "VDD_CPU_SOC_MSS": Rail(3.924, 3.835, None),
                "VIN": Rail(15.004, 15.096, None),
            },
        ),
    ),
    "R39 Thor, root, at work: three clusters, peaks of heat and power, words to come": (
        "08-08-2026 21:00:39 RAM 8353/125749MB (lfb 31x4MB) CPU [90%@2601,off,7%@2601] EMC_FREQ 34%@4266 "
        "GR3D_FREQ 87%@[1574,1574,1570] NVENC0_FREQ @1691 VIC off cpu@58.25C/61.75C tj@66.625C/66.75C "
        "VDD_GPU 37939mW/8660mW/38001mW VIN 124486mW/36487mW/124487mW NEXT_BIG_THING soon",
        sample(
            8353,
            125749,
            date=datetime(2026, 8, 8, 21, 0, 39),
            lfb=FreeBlocks(31, 4 * MB),
            cpus=cores((90, 2601), None, (7, 2601)),
            emc=Engine(0.34, [4266e6]),
            gr3d=Engine(0.87, [1574e6, 1574e6, 1570e6]),
            engines={"NVENC0": clock(1691), "VIC": None},
            temperatures_c={"cpu": 58.25, "tj": 66.625},
            rails={"VDD_GPU": Rail(37.939, 8.66, 38.001), "VIN": Rail(124.486, 36.487, 124.487)},
        ),
    ),
    "R39 Thor, idle: clocks without loads, cores at one clock": (
        "08-08-2026 20:58:23 RAM 3429/125749MB (lfb 120x4MB) CPU [0%,5%,off]@2601 EMC_FREQ @4266 "
        "GR3D_FREQ @[1574,1574,1574] VIN 28906mW/14453mW/28906mW",
        sample(
            3429,
            125749,
            date=datetime(2026, 8, 8, 20, 58, 23),
            lfb=FreeBlocks(120, 4 * MB),
            cpus=cores((0, 2601), (5, 2601), None),
            emc=clock(4266),
            gr3d=clock(1574, 1574, 1574),
            rails={"VIN": Rail(28.906, 14.453, 28.906)},
        ),
    ),
    "cut within the list of cores: no core, for the others might have other numbers": (
        "RAM 1923/3964MB (lfb 2x2MB) SWAP 191/1982MB (cached 6MB) CPU [5%@1224,4%@12",
        sample(1923, 3964, lfb=FreeBlocks(2, 2 * MB), swap=swap(191, 1982, 6)),
    ),
    "cut within a temperature and a swap: what is whole stays": (
        "RAM 1923/3964MB (lfb 2x SWAP 191/19 CPU@40C GPU@4",
        sample(1923, 3964, temperatures_c={"CPU": 40.0}),
    ),
    "cut within an average: the current is whole": (
        "RAM 1923/3964MB VDD_IN 2763mW/28 VDD_SOC 650mW/",
        sample(1923, 3964, rails={"VDD_IN": Rail(2.763, None, None), "VDD_SOC": Rail(0.65, None, None)}),
    ),
    "loads over 100 %, cores by letters, a thirteenth month": (
        "13-09-2024 13:31:31 RAM 1923/3964MB CPU [5%@1224,x] EMC_FREQ 101% GR3D_FREQ 999%@76 VIC 50%@115",
        sample(1923, 3964, engines={"VIC": Engine(0.5, [115e6])}),
    ),
    "a line that starts amid the date": ("4 13:31:31 RAM 7/8MB GPU@1.5C", sample(7, 8, temperatures_c={"GPU": 1.5})),
}
