// What the console says, in Chinese and English.

const WORDS = {
  en: {
    other: '中文', live: 'Live', alerts: 'Alerts', skip: 'Skip to alerts', close: 'Close', signOut: 'Sign out',
    signIn: 'Sign in', token: 'Token', older: 'Show older', clip: 'Clip', fullscreen: 'Full screen',
    name: 'Name', password: 'Password', byToken: 'With a token', byPassword: 'With a password',
    signInWhy: 'Alerts are shown to operators and dispatchers. Sign in.',
    signInLive: 'This box shows its cameras after sign-in only.',
    signInHow: 'No account yet? On the box, run:',
    setup: 'Set up', setupToken: 'Set-up token',
    setupWhy: 'Nobody administers this box yet. Make the first administrator with the set-up token from the log of its start.',
    passwordRules: 'At least 10 characters, 5 different ones; neither the name nor what everybody tries first.',
    ownKey: 'Your stream key: what players show by RTSP in place of the password. It is shown this once.',
    failed: 'The box did not answer. Try again.',
    refused: {
      'wrong-password': () => 'Name or password is wrong, or the account is disabled.',
      'unknown-token': () => 'This token is unknown, expired or revoked.',
      'too-many-failures': (seconds) => `Too many failures. Try again in ${seconds} s.`,
      unavailable: () => 'The box is busy. Try again.',
      'set-up-done': () => 'The box is set up already. Sign in.',
    },
    noAlerts: 'No alerts. All is quiet.', noCameras: 'No cameras are configured yet: add one to liuta.toml.',
    notAllowed: 'You may not see alerts. Sign in as somebody who may.', lost: 'The box does not answer',
    starting: 'Starting …', offline: 'No connection to the camera', pictures: 'single pictures',
    noPicture: 'This browser cannot play the stream, and no pictures can be made', active: 'active', ended: 'ended',
    level: 'Level', online: (n, all) => `${n} of ${all} online`, openNow: (n) => n ? `${n} active` : '',
    news: (kind, camera) => `New alert: ${kind}, ${camera}`, seen: (n) => `seen ${n} times`,
    kinds: {
      fire: 'Fire', smoke: 'Smoke', crowd: 'Crowd', intrusion: 'Intrusion', vehicle: 'Vehicle',
      'stopped-vehicle': 'Stopped vehicle', 'wrong-way': 'Wrong way', congestion: 'Congestion', lights: 'Lights',
      mining: 'Mining activity', tamper: 'Camera tampering', air: 'Air quality', camera: 'Camera fault', box: 'Box fault',
    },
  },
  zh: {
    other: 'English', live: '实时画面', alerts: '告警', skip: '跳到告警', close: '关闭', signOut: '退出',
    signIn: '登录', token: '令牌', older: '更早的告警', clip: '录像', fullscreen: '全屏',
    name: '用户名', password: '密码', byToken: '用令牌登录', byPassword: '用密码登录',
    signInWhy: '告警仅对值班和调度人员显示，请登录。',
    signInLive: '登录后才能查看本机的摄像机。',
    signInHow: '没有账号？在本机上运行：',
    setup: '开始使用', setupToken: '初始化令牌',
    setupWhy: '本机还没有管理员。请用启动日志中的初始化令牌创建第一个管理员。',
    passwordRules: '至少 10 个字符，其中至少 5 个不同；不能与用户名相同，也不能是常见密码。',
    ownKey: '您的取流密钥：播放器通过 RTSP 取流时用它代替密码。只显示这一次。',
    failed: '设备没有响应，请重试。',
    refused: {
      'wrong-password': () => '用户名或密码错误，或账号已停用。',
      'unknown-token': () => '令牌不存在、已过期或已撤销。',
      'too-many-failures': (seconds) => `失败次数过多，请在 ${seconds} 秒后重试。`,
      unavailable: () => '设备繁忙，请重试。',
      'set-up-done': () => '本机已有管理员，请登录。',
    },
    noAlerts: '暂无告警，一切平静。', noCameras: '尚未配置摄像机：请在 liuta.toml 中添加。',
    notAllowed: '当前账号无权查看告警，请换一个账号登录。', lost: '设备没有响应',
    starting: '正在连接…', offline: '摄像机未连接', pictures: '单帧画面',
    noPicture: '浏览器无法播放此视频，也无法生成画面', active: '进行中', ended: '已结束',
    level: '级别', online: (n, all) => `${all} 路中 ${n} 路在线`, openNow: (n) => n ? `${n} 个进行中` : '',
    news: (kind, camera) => `新告警：${kind}，${camera}`, seen: (n) => `共 ${n} 次`,
    kinds: {
      fire: '明火', smoke: '烟雾', crowd: '人员聚集', intrusion: '人员闯入', vehicle: '车辆',
      'stopped-vehicle': '违停车辆', 'wrong-way': '逆行', congestion: '拥堵', lights: '灯光',
      mining: '私挖盗采', tamper: '遮挡破坏', air: '空气质量', camera: '摄像机故障', box: '设备故障',
    },
  },
};

let language = localStorage.getItem('language') || (/^zh\b/i.test(navigator.language) ? 'zh' : 'en');
if (!(language in WORDS)) language = 'en';

export const word = (name) => WORDS[language][name] ?? name;
export const kind = (name) => WORDS[language].kinds[name] ?? name;
export const locale = () => (language === 'zh' ? 'zh-CN' : navigator.language.startsWith('zh') ? 'en' : navigator.language);

export function switchLanguage() {
  language = language === 'zh' ? 'en' : 'zh';
  localStorage.setItem('language', language);
}

/** Fills every element that names its word. */
export function translate() {
  document.documentElement.lang = language === 'zh' ? 'zh-CN' : 'en';
  for (const element of document.querySelectorAll('[data-word]')) element.textContent = word(element.dataset.word);
}
